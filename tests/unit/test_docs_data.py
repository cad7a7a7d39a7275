"""Every block of docs/data.md is read by what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from numpy.testing import assert_allclose

from haps_search.config.load import load_log, load_table
from haps_search.config.tasks import ColumnSplits, QaTask
from haps_search.tasks.qa import QaTask as Task
from haps_search.tasks.tables.log import read_log, recognise_log
from haps_search.tasks.tables.reading import read_table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BLOCKS = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
QUESTIONS = ("plain.csv", "squad.json", "chats.jsonl")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in BLOCKS.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def test_no_block_is_without_a_name_and_the_page_is_short() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(BLOCKS)
    assert len(text.splitlines()) <= 150


@pytest.mark.usefixtures("here")
def test_every_block_is_what_it_is_said_to_be() -> None:
    seen = set(QUESTIONS)
    for name in QUESTIONS:
        assert len(Task(QaTask(train=name, validation=name)).questions("train")) == 1
    for name in ("task-nested.yaml", "task-hub.yaml"):
        task = Task(QaTask.model_validate(yaml.safe_load(BLOCKS[name])))
        if "hub" not in name:
            assert [q.text for q in task.questions("train")] == ["It rains. It is wet?", "It snows. It is hot?"]
        seen |= {name, "nested.jsonl"}
    assert [z[0] for z in read_table("routerdc.json").assignments] == ["lab/small", "lab/large"]
    assert read_table("long.csv").tasks == ("sums",)
    assert_allclose(read_table(load_table("table-wide.yaml")).rewards, [[0.12, 0.95], [1, 0.4]], rtol=1e-6)
    assert read_table(load_table("table-parts.yaml")).rewards[-1].tolist() == [1, 0]
    assert ColumnSplits.model_validate(yaml.safe_load(BLOCKS["splits.yaml"])["splits"]).validation == ("dev",)
    assert read_log(recognise_log(Path("log.csv"))).actions == ("small", "large")
    assert read_log(load_log("log-other.yaml")).propensities is None
    seen |= {"routerdc.json", "long.csv", "wide.csv", "table-wide.yaml", "table-parts.yaml", "long-test.json"}
    assert seen | {"splits.yaml", "log.csv", "log-other.yaml"} == set(BLOCKS)
