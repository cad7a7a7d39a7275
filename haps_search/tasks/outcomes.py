"""The Parquet that `haps collect` writes: a row per question, assignment and sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
    """One episode. `cost` is in the unit of the candidates' prices."""

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


@dataclass(frozen=True)
class OutcomeTable:
    """N questions x C assignments. Made by importers and by `haps collect`, read by warm-up, replay and inspect.

    `rewards` (N, C) float32 is NaN where a cell is missing, and the mean where it was measured `samples` (N, C)
    times. `costs` (N, C) float32, in the table's own money, is None where nobody knows them. `tasks[i]` is "" and
    `splits[i]` None where the table does not say.
    """

    questions: tuple[Question, ...]
    tasks: tuple[str, ...]
    splits: tuple[str | None, ...]
    assignments: tuple[Assignment, ...]
    rewards: NDArray[np.float32]
    samples: NDArray[np.int32]
    costs: NDArray[np.float32] | None = None


QUESTION = ("id", "question")
NEEDED = (*QUESTION, "reference", "split", "task", "assignment", "sample", "reward", "cost")


@dataclass(frozen=True)
class _Coded:
    """A column of text as indices into its different values, in order of their first row."""

    index: NDArray[np.int64]
    values: tuple[str, ...]
    first: NDArray[np.int64]
    """The row where each value comes first."""


def read_collected(path: Path) -> OutcomeTable:
    """Questions and assignments in order of their first row; a cell's reward and cost are means over its samples.

    Raises:
        DataError: no such file, not Parquet, or what is wrong with which column and row (counted from 1).
    """
    table = _columns(path, NEEDED)
    ids, zs = _coded(table, "id"), _coded(table, "assignment")
    texts = [_same_per_question(path, table, ids, name) for name in ("question", "reference", "task", "split")]
    _each_once(path, table, ids, zs)
    cells = ids.index * len(zs.values) + zs.index
    shape = (len(ids.values), len(zs.values))
    samples = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    return OutcomeTable(
        questions=tuple(map(Question, ids.values, texts[0], texts[1])),
        tasks=texts[2],
        splits=texts[3],
        assignments=_assignments(path, zs),
        rewards=_means(_finite(path, table, "reward"), cells, samples),
        samples=samples.astype(np.int32),
        costs=_means(_finite(path, table, "cost"), cells, samples),
    )


@dataclass(frozen=True, slots=True)
class Said:
    """What a candidate answered to a question, and what that earned."""

    candidate: str
    text: str
    reward: float


Completions = Mapping[tuple[str, str], tuple[Said, ...]]
"""By id and text of the question, in the order of the table."""


def read_completions(path: Path) -> Completions:
    """The texts of a collected table, whose task has one role; read once while the file stays as it is.

    Raises:
        DataError: as in `read_collected`, or a table of several roles.
    """
    try:
        stamp = path.stat()
    except OSError:
        stamp = None  # opening says what is wrong
    return _completions(path, None if stamp is None else (stamp.st_mtime_ns, stamp.st_size))


@lru_cache(maxsize=4)
def _completions(path: Path, stamp: tuple[int, int] | None) -> Completions:
    table = _columns(path, (*QUESTION, "assignment", "reward", "completion"))
    zs = _coded(table, "assignment")
    assignments = _assignments(path, zs)
    if len(assignments[0]) > 1:
        raise DataError(f"{path}: its assignments have {len(assignments[0])} roles; answers that are taught have one")
    rewards = _finite(path, table, "reward").tolist()
    names = [assignments[index][0] for index in zs.index]
    ids, texts, said = (table.column(name).to_pylist() for name in (*QUESTION, "completion"))
    found: dict[tuple[str, str], list[Said]] = {}
    for key, name, text, reward in zip(zip(ids, texts, strict=True), names, said, rewards, strict=True):
        found.setdefault(key, []).append(Said(name, text, reward))
    return {key: tuple(each) for key, each in found.items()}


def _columns(path: Path, needed: tuple[str, ...]) -> pa.Table:
    with open_parquet(path) as file:
        missing = [name for name in needed if name not in file.schema_arrow.names]
        if missing:
            got = ", ".join(file.schema_arrow.names)
            raise DataError(f"{path}: no column {', '.join(missing)}; a collected table has them, this one has {got}")
        table = file.read(columns=list(needed))
    if not table.num_rows:
        raise DataError(f"{path}: no rows")
    for name in needed:
        column = table.column(name)
        if column.null_count:
            row = column.is_null().to_pylist().index(True) + 1
            raise DataError(f"{path}: row {row}, column {name}: needs a value, got null")
        try:
            table = table.set_column(table.schema.get_field_index(name), name, column.cast(SCHEMA.field(name).type))
        except pa.ArrowException as error:
            wanted = SCHEMA.field(name).type
            raise DataError(f"{path}: column {name}: needs {wanted}, got {column.type} ({error})") from error
    return table.combine_chunks()


def _coded(table: pa.Table, name: str) -> _Coded:
    encoded = table.column(name).combine_chunks().dictionary_encode()
    index = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return _Coded(index, tuple(encoded.dictionary.to_pylist()), np.unique(index, return_index=True)[1])


def _same_per_question(path: Path, table: pa.Table, ids: _Coded, name: str) -> tuple[str, ...]:
    """The column's value for each question, which all of its rows must share."""
    column = _coded(table, name)
    per_question = column.index[ids.first]
    differing = np.flatnonzero(per_question[ids.index] != column.index)
    if differing.size:
        row = int(differing[0])
        own, other = column.values[column.index[row]], column.values[per_question[ids.index[row]]]
        raise DataError(
            f"{path}: row {row + 1}, column {name}: got {own!r} for question {ids.values[ids.index[row]]!r}, "
            f"whose first row has {other!r}; ids name questions, so give different questions different ids"
        )
    return tuple(column.values[i] for i in per_question)


def _each_once(path: Path, table: pa.Table, ids: _Coded, zs: _Coded) -> None:
    keys = np.stack([ids.index, zs.index, table.column("sample").to_numpy()], 1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(keys)))
    if again.size:
        row = int(again[0])
        raise DataError(
            f"{path}: row {row + 1}: question {ids.values[ids.index[row]]!r}, assignment {zs.values[zs.index[row]]} "
            f"and sample {keys[row, 2]} stand there a second time; give each sample a number of its own"
        )


def _assignments(path: Path, zs: _Coded) -> tuple[Assignment, ...]:
    found: list[Assignment] = []
    for text, row in zip(zs.values, zs.first, strict=True):
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: row {row + 1}, column assignment: needs a JSON list of names, got {text!r}")
        if found and len(names) != len(found[0]):
            raise DataError(
                f"{path}: row {row + 1}, column assignment: got {len(names)} roles, the first row has {len(found[0])}"
            )
        found.append(tuple(names))
    if len(set(found)) < len(found):
        raise DataError(f"{path}: column assignment: the same names are written in two ways; write them as JSON dumps")
    return tuple(found)


def _finite(path: Path, table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table.column(name).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(f"{path}: row {bad[0] + 1}, column {name}: needs a finite number, got {values[bad[0]]}")
    return values


def _means(values: NDArray[np.float64], cells: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.float32]:
    sums = np.bincount(cells, weights=values, minlength=samples.size).reshape(samples.shape)
    with np.errstate(invalid="ignore"):
        return (sums / samples).astype(np.float32)  # 0 / 0 where a cell is missing: NaN
