"""`haps check-reward`: what is read from real texts, what is paid and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.load import load_study
from haps_search.errors import ConfigError, DataError
from haps_search.verbs.check_reward import check_reward

QUESTIONS = [
    {"id": "a", "question": "Which is yellow?", "options": ["apple", "banana", "cherry"], "reference": "banana"},
    {"id": "b", "question": "Which is red?", "options": ["apple", "plum", "kiwi"], "reference": "A"},
]
ANSWERS = [
    {"id": "a", "text": "<think>A?</think> The answer is **B**."},
    {"id": "validation:b", "completion": "Answer: C. Answer: A"},
    {"question": "which is RED", "response": "A or C [bold]"},
    {"id": "b", "answer": "kiwi"},
]


def written(folder: Path, *answers: Any, **task: Any) -> tuple[Path, Path]:
    """The files of a study and of answers."""
    (folder / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    described = {
        "type": "qa", "train": str(folder / "q.jsonl"), "validation": str(folder / "q.jsonl"),
        "fields": {"choices": "options"}, "prompt": "{question} {choices}",
        "reward": {"type": "multiple_choice"}, **task,
    }  # fmt: skip
    candidates = [{"name": "adder", "source": {"type": "zoo", "name": "adder"}}]
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump({"name": "s", "experiment": {"task": described, "candidates": candidates}}))
    texts = folder / "texts.jsonl"
    texts.write_text("\n".join(a if isinstance(a, str) else json.dumps(a) for a in answers) + "\n\n")
    return study, texts


def test_each_text_is_read_and_paid_with_its_reason(tmp_path: Path) -> None:
    study, texts = written(tmp_path, *ANSWERS)
    found = check_reward(load_study(study), texts)
    assert [each.read for each in found.answers] == ["B", "A", None, "C"]
    assert [(each.reward, each.learning) for each in found.answers] == [(1, 1), (1, 0), (0, 0), (0, 0)]
    assert found.answers[1].stated == ("C", "A")
    assert found.answers[2].failure == "the text names several options: A, C"
    assert found.answers[3].compared == ("C. kiwi", "A. apple")
    assert found.answers[3].how == "option's words"
    assert (found.mean, found.unread, found.hedged) == (0.5, 1, 1)


def test_other_rewards_show_what_they_compare(tmp_path: Path) -> None:
    study, texts = written(tmp_path, {"id": "a", "text": "The answer is: The Bananas."}, reward={"type": "f1"})
    (each,) = check_reward(load_study(study), texts).answers
    assert each.compared == ("bananas", "banana")
    study, texts = written(tmp_path, {"id": "a", "text": "banana"}, reward={"type": "exact", "normaliser": "v1"})
    assert check_reward(load_study(study), texts).reward["normaliser"] == "v1"


def test_the_command_shows_a_table_or_json(tmp_path: Path) -> None:
    study, texts = written(tmp_path, *ANSWERS)
    shown = CliRunner().invoke(app, ["check-reward", str(study), "--answers", str(texts)]).output
    assert "1 (0 learning)" in shown
    assert "A or C [bold]" in shown
    assert "4 texts, mean reward 0.5, 1 not read, 1 that state several answers" in shown
    assert "normaliser: default" in shown
    plain = CliRunner().invoke(app, ["check-reward", str(study), "--answers", str(texts), "--json"]).output
    assert json.loads(plain)["answers"][1]["stated"] == ["C", "A"]
    assert json.loads(plain)["mean"] == 0.5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", r"texts\.jsonl:1: bad JSON"),
        ({"id": "a"}, r"texts\.jsonl:1: got no text, needs an object with text or answer"),
        ({"id": "z", "text": "B"}, r"texts\.jsonl:1: got `z`, needs a question of train or validation"),
        ({"text": "B"}, "got neither id nor question"),
        ("", "got no rows"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    study, texts = written(tmp_path, row)
    with pytest.raises(DataError, match=message):
        check_reward(load_study(study), texts)


def test_a_file_that_is_not_there_and_a_task_without_texts(tmp_path: Path) -> None:
    study, _ = written(tmp_path, *ANSWERS)
    with pytest.raises(ConfigError, match="--answers: cannot read"):
        check_reward(load_study(study), tmp_path / "nothing.jsonl")
    table = Path(__file__).parents[1] / "assets" / "replay_tiny.jsonl"
    described = yaml.safe_load(study.read_text())
    described["experiment"]["task"] = {"type": "replay", "table": {"file": str(table)}}
    described["experiment"]["candidates"] = [{"name": "m", "source": {"type": "table"}}]
    described["experiment"]["routing"] = {"low_level": {"type": "none"}}
    described["experiment"]["learning"] = {"signal": "outcomes"}
    study.write_text(yaml.safe_dump(described))
    with pytest.raises(ConfigError, match="no text is read"):
        check_reward(load_study(study), tmp_path / "texts.jsonl")
