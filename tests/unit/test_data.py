"""What is looked at before anything expensive starts, and file names that mean the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from haps_search.config.anchors import anchored
from haps_search.config.load import load_study
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError, DataError
from haps_search.verbs.driver import read_task

STUDY = """
name: own
experiment:
  task:
    type: qa
    train: train.jsonl
    validation: data/validation.jsonl
    max_context_chars: 10
    fields: {id: null, context: context}
    reward: REWARD
  candidates:
    - {name: a, source: {type: path, path: models/a}}
    - {name: b, source: {type: gguf, file: b.gguf}}
"""


def rows(*questions: str) -> str:
    return "".join(json.dumps({"question": q, "reference": "r", "context": "x" * 20}) + "\n" for q in questions)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "train.jsonl").write_text(rows("one?", "two?"))
    (tmp_path / "data" / "validation.jsonl").write_text(rows("Two", "three?", "four?"))
    (tmp_path / "own.yaml").write_text(STUDY.replace("REWARD", "{type: f1}"))
    return load_study("own.yaml")


def test_file_names_are_absolute_so_that_working_folders_do_not_matter(study: Study, tmp_path: Path) -> None:
    described = study.model_dump(mode="json")["experiment"]
    assert described["task"]["train"] == str(tmp_path / "train.jsonl")
    assert described["task"]["validation"] == str(tmp_path / "data" / "validation.jsonl")
    assert described["task"]["test"] is None
    assert [c["source"].get("path", c["source"].get("file")) for c in described["candidates"]] == [
        str(tmp_path / "models" / "a"),
        str(tmp_path / "b.gguf"),
    ]


def test_cut_contexts_and_leaked_questions_are_said(study: Study) -> None:
    said = "\n".join(read_task(study.experiment))
    assert "2 contexts of train are cut at 10 characters" in said
    assert "1 validation questions stand in train too" in said


def test_a_malformed_row_is_found_before_anything_starts(study: Study, tmp_path: Path) -> None:
    (tmp_path / "data" / "validation.jsonl").write_text('{"question": "no reference?"}\n')
    with pytest.raises(DataError, match=r"validation\.jsonl"):
        read_task(study.experiment)


def test_a_missing_reward_function_is_found_before_anything_starts(study: Study, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(STUDY.replace("REWARD", "{type: function, function: 'nowhere_at_all:f'}"))
    with pytest.raises(ConfigError, match="nowhere_at_all"):
        read_task(load_study("own.yaml").experiment)


def test_hotpotqa_says_what_was_cut_skipped_and_leaked_and_its_encoder_is_anchored(
    study: Study, tmp_path: Path
) -> None:
    described = study.model_dump(mode="json")
    row = {"_id": "a", "question": "one?", "answer": "r", "context": [["t", ["x" * 20]]]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n{\n")
    (tmp_path / "data" / "validation.jsonl").write_text(json.dumps([row]))
    described["experiment"]["task"] = {
        "type": "hotpotqa",
        "train": "train.jsonl",
        "validation": "data/validation.jsonl",
        "max_context_chars": 10,
        "malformed": "skip",
    }
    said = "\n".join(read_task(Study.model_validate(described).experiment))
    for part in ("1 contexts of train are cut", "1 rows of train left out", "1 validation questions stand in train"):
        assert part in said
    described["experiment"]["task"]["retrieval"] = {"type": "encoder", "source": {"type": "path", "path": "minilm"}}
    task = anchored(Study.model_validate(described)).model_dump(mode="json")["experiment"]["task"]
    assert task["retrieval"]["source"]["path"] == str(tmp_path / "minilm")
    assert task["train"] == str(tmp_path / "train.jsonl")
