"""The Parquet that `haps collect` writes: a row per question, assignment and sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from haps_search.errors import DataError
from haps_search.types import Assignment, Question

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("assignment", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("completion_tokens", pa.int64(), nullable=False),
        pa.field("cost", pa.float64(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("failure", pa.string()),
    ]
)
"""`assignment` is a JSON list of candidate names in the order of the task's roles; `completion` the last one's text;
`failure` why completions could not be read, null where all could."""
_PLAN = b"haps_search.plan"


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One episode without adapters. `cost` is in the unit of the candidates' prices."""

    question: Question
    split: str
    task: str
    assignment: Assignment
    sample: int
    reward: float
    prompt_tokens: int
    completion_tokens: int
    cost: float
    completion: str
    failure: str | None


def write_outcomes(path: Path, outcomes: Sequence[OutcomeRow]) -> None:
    """One file with these rows, in this order."""
    pq.write_table(pa.Table.from_pylist([_row(outcome) for outcome in outcomes], SCHEMA), path)


def merge_outcomes(parts: Iterable[Path], target: Path, plan: Mapping[str, Any]) -> int:
    """Write the rows of all parts into one file, `plan` in its metadata; returns how many rows there are.

    Raises:
        DataError: a part that cannot be read.
    """
    rows = 0
    with pq.ParquetWriter(target, SCHEMA.with_metadata({_PLAN: json.dumps(plan)})) as writer:
        for part in parts:
            with open_parquet(part) as file:
                table = file.read().cast(SCHEMA)
            writer.write_table(table)
            rows += table.num_rows
    return rows


def plan_of(path: Path) -> dict[str, Any]:
    """What a collected table was made from, empty where it does not say. Raises DataError."""
    with open_parquet(path) as file:
        stored = (file.schema_arrow.metadata or {}).get(_PLAN)
    return dict(json.loads(stored)) if stored else {}


def open_parquet(path: Path) -> pq.ParquetFile:
    """Raises DataError where there is no such file or it is not Parquet."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `haps collect FILE -o {path}` makes one") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _row(outcome: OutcomeRow) -> dict[str, Any]:
    asked = outcome.question
    return {
        "id": asked.id,
        "question": asked.text,
        "reference": asked.reference,
        "split": outcome.split,
        "task": outcome.task,
        "assignment": json.dumps(outcome.assignment),
        "sample": outcome.sample,
        "reward": outcome.reward,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "cost": outcome.cost,
        "completion": outcome.completion,
        "failure": outcome.failure,
    }
