"""The same reckoning for MLflow: a run per trial, and every metric at every step once, as the trial recorded it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haps_search.records.jsonl import read_records
from haps_search.records.tracker import Record
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder, trial_name

SUMMARY = "summary/"
"""Before the names of the metrics of a trial's end."""
CLOCK = ("_seconds", "_per_second")
"""How metrics end that tell of time, which a step taken again does not repeat."""
SAME = 1e-6
"""Relative, for steps that were taken again: in float64 only the last digits know in which batch a row was."""


@dataclass(frozen=True, slots=True)
class Point:
    """`time` in milliseconds since 1970."""

    step: int
    value: float
    time: int


@dataclass(frozen=True, slots=True)
class Logged:
    """One run of MLflow: `points` by metric."""

    kind: str
    trial: str
    parent: str
    id: str
    status: str
    points: Mapping[str, Sequence[Point]]


def mlflow_problems(sweep: Path, runs: Sequence[Logged]) -> list[str]:
    """What MLflow lacks, has twice or has otherwise than the records of a sweep; empty where all is there once.

    A trial that failed may have more in MLflow: steps after its last checkpoint, to which no attempt came again. MLflow
    takes no point back, and the records are those of the last attempt.
    """
    parents = [run for run in runs if run.kind == "sweep"]
    found = [f"{len(parents)} parent runs, needs one"] if len(parents) != 1 else _not_over(parents[0])
    for trial in Journal(sweep).trials():
        name = trial_name(trial.number)
        own = [run for run in runs if run.trial == name]
        records = read_records(trial_folder(sweep, trial.number) / "metrics.jsonl")
        status = "FAILED" if trial.state == "failed" else "FINISHED"
        problems = (
            [f"{len(own)} runs, needs one"] if len(own) != 1 else list(_run_problems(own[0], records, parents, status))
        )
        found += [f"trial {name}: {problem}" for problem in problems]
    return [f"{sweep.name}: MLflow: {problem}" for problem in found]


def retold(sweep: Path, runs: Sequence[Logged]) -> int:
    """How many steps MLflow keeps as they were recorded first, while the records have a later, equal account."""
    count = 0
    for run in (run for run in runs if run.kind == "trial"):
        records = read_records(trial_folder(sweep, int(run.trial)) / "metrics.jsonl")
        times = {record.step: _milliseconds(record) for record in records}
        count += sum(point.time != times.get(point.step) for point in run.points.get("reward", ()))
    return count


def _run_problems(run: Logged, records: Sequence[Record], parents: Sequence[Logged], status: str) -> Iterator[str]:
    yield from _not_over(run, status)
    if run.parent not in {parent.id for parent in parents}:
        yield f"its parent is {run.parent or 'none'}, not the sweep's run"
    names = dict.fromkeys(name for record in records for name in record.metrics)
    last = max((record.step for record in records), default=0) if status == "FAILED" else math.inf
    for name in names.keys() | {name for name in run.points if not name.startswith(SUMMARY)}:
        wanted = {record.step: record for record in records if name in record.metrics}
        yield from _metric_problems(name, run.points.get(name, ()), wanted, last)


def _metric_problems(name: str, points: Sequence[Point], wanted: Mapping[int, Record], last: float) -> Iterator[str]:
    """`last` is the step beyond which a point needs no record."""
    steps = [point.step for point in points]
    for step in wanted.keys() - set(steps):
        yield f"{name} at step {step} is missing"
    for step in sorted(set(steps)):
        if step not in wanted and step <= last:
            yield f"{name} at step {step} is in no record"
        elif steps.count(step) > 1:
            yield f"{name} at step {step} is there {steps.count(step)} times"
    for point in points:
        if point.step in wanted and not _agrees(name, point, wanted[point.step]):
            yield f"{name} at step {point.step} is {point.value}, recorded is {wanted[point.step].metrics[name]}"


def _agrees(name: str, point: Point, record: Record) -> bool:
    """A point of the record's own time is the record's; one before it is of the same step, recorded earlier."""
    value = record.metrics[name]
    if point.time == _milliseconds(record):
        return point.value == value or (math.isnan(point.value) and math.isnan(value))
    if name.endswith(CLOCK):
        return point.time < _milliseconds(record)
    same = math.isclose(point.value, value, rel_tol=SAME, abs_tol=SAME)
    return point.time < _milliseconds(record) and (same or (math.isnan(point.value) and math.isnan(value)))


def _not_over(run: Logged, status: str = "FINISHED") -> list[str]:
    return [] if run.status == status else [f"the {run.kind}'s run is {run.status}, needs {status}"]


def _milliseconds(record: Record) -> int:
    return int(record.time * 1000)
