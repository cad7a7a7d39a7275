"""The Parquet of `haps collect`: what goes in comes out as means, and each malformed file says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from haps_search.errors import DataError
from haps_search.tasks.outcomes import OutcomeRow, merge_outcomes, plan_of, read_collected, write_outcomes
from haps_search.types import Assignment, Question

Rows = list[dict[str, Any]]


def outcome(id: str, z: Assignment, sample: int, reward: float, cost: float = 0.0) -> OutcomeRow:
    asked = Question(id, f"what is {id}?", f"ref {id}")
    return OutcomeRow(
        asked, "train", "made", z, sample, reward, 7, 3, cost, "said\n", None if reward else "nothing read"
    )


OUTCOMES = [
    outcome("q1", ("a", "b"), 0, 1.0, 0.5),
    outcome("q1", ("a", "b"), 1, 0.25, 1.5),
    outcome("q1", ("b", "b"), 0, 0.0),
    outcome("q0", ("b", "b"), 0, 0.5),
]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[Rows], Any]], Path]:
    """The file with its rows changed, columns typed as they then look."""

    def write(change: Callable[[Rows], Any]) -> Path:
        write_outcomes(tmp_path / "t.parquet", OUTCOMES)
        rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    return write


def test_cells_are_means_over_samples_and_missing_ones_nan(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "t.parquet", OUTCOMES)
    table = read_collected(tmp_path / "t.parquet")
    assert [(q.id, q.text, q.reference) for q in table.questions] == [
        ("q1", "what is q1?", "ref q1"), ("q0", "what is q0?", "ref q0"),
    ]  # fmt: skip
    assert table.assignments == (("a", "b"), ("b", "b"))
    np.testing.assert_array_equal(table.rewards, np.array([[0.625, 0.0], [np.nan, 0.5]], np.float32))
    np.testing.assert_array_equal(table.samples, [[2, 1], [0, 1]])
    assert table.costs is not None
    np.testing.assert_array_equal(table.costs, np.array([[1.0, 0.0], [np.nan, 0.0]], np.float32))
    assert (table.tasks, table.splits) == (("made", "made"), ("train", "train"))
    assert (table.rewards.dtype, table.samples.dtype) == (np.float32, np.int32)


def test_every_column_keeps_what_was_written(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "t.parquet", OUTCOMES)
    row = pq.read_table(tmp_path / "t.parquet").to_pylist()[2]
    assert json.loads(row.pop("assignment")) == ["b", "b"]
    assert row == {
        "id": "q1", "question": "what is q1?", "reference": "ref q1", "split": "train", "task": "made", "sample": 0,
        "reward": 0.0, "prompt_tokens": 7, "completion_tokens": 3, "cost": 0.0, "completion": "said\n",
        "failure": "nothing read",
    }  # fmt: skip


def test_merged_parts_are_all_rows_in_order_with_the_plan(tmp_path: Path) -> None:
    parts = [tmp_path / "part-0", tmp_path / "part-1"]
    for part, outcomes in zip(parts, (OUTCOMES[:3], OUTCOMES[3:]), strict=True):
        write_outcomes(part, outcomes)
    assert merge_outcomes(parts, tmp_path / "t.parquet", {"samples": 2}) == 4
    write_outcomes(tmp_path / "whole.parquet", OUTCOMES)
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == pq.read_table(tmp_path / "whole.parquet").to_pylist()
    assert plan_of(tmp_path / "t.parquet") == {"samples": 2}
    assert plan_of(tmp_path / "whole.parquet") == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1].update(sample=0), r"row 2: question 'q1', assignment .* and sample 0 .* second time"),
        (lambda rows: rows[3].update(reward=float("nan")), r"row 4, column reward: needs a finite number, got nan"),
        (lambda rows: rows[1].update(question="other?"), r"row 2, column question: got 'other\?' for question 'q1'"),
        (lambda rows: rows[2].update(split="test"), r"row 3, column split: got 'test' for question 'q1'"),
        (lambda rows: rows[2].update(assignment="a"), r"row 3, column assignment: needs a JSON list .* 'a'"),
        (lambda rows: rows[2].update(assignment='["a"]'), r"row 3, column assignment: got 1 roles, the first"),
        (lambda rows: rows[1].update(reward=None), r"row 2, column reward: needs a value, got null"),
        (lambda rows: [r.pop("reward") for r in rows], r"no column reward; a collected table has them"),
        (lambda rows: [r.update(reward=[1.0]) for r in rows], r"column reward: needs double, got list"),
        (lambda rows: rows[1].update(assignment='["a",  "b"]'), r"the same names are written in two ways"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named(changed: Callable[..., Path], change: Callable[[Rows], Any], said: str) -> None:
    file = changed(change)
    with pytest.raises(DataError, match=said) as caught:
        read_collected(file)
    assert str(caught.value).startswith(str(file))


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; `haps collect FILE -o"):
        read_collected(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("id,reward\n")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_collected(tmp_path / "text.parquet")
    write_outcomes(tmp_path / "empty.parquet", [])
    with pytest.raises(DataError, match="no rows"):
        read_collected(tmp_path / "empty.parquet")
