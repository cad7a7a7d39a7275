"""The table at a sweep's end, a searched router beside what it must beat, and the table of arms. On the same questions.

What of a replay is random, single or oracle comes from `evaluation/references/`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.run import SamplingConfig
from haps_search.errors import ConfigError
from haps_search.evaluation.intervals import (
    Interval,
    paired_runs_interval,
    resampled,
    runs_interval,
)
from haps_search.evaluation.labels import INDEPENDENT, ORACLE, RANDOM
from haps_search.evaluation.untrained import independent
from haps_search.search.engine import Engine
from haps_search.search.validation import Scored, score_assignment
from haps_search.tasks.task import Task
from haps_search.types import Assignment, Question

MOST_ASSIGNMENTS = 64
POWER_80 = 1.959963984540054 + 0.8416212335729143
"""Two-sided 5 % test, 80 % power, in standard errors."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a row took: settings searched, core-seconds of that search, parameters that learn, floating-point operations
    of a step forward and backward, and seconds of a step. None where nobody knows."""

    trials: int
    core_seconds: float | None
    parameters: int | None = None
    forward: float | None = None
    backward: float | None = None
    step_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line: mean reward with interval, the joint router's paired gain over it, over how many seeds, and what it
    cost where it learnt."""

    label: str
    reward: Interval
    joint_gain: Interval | None
    seeds: int = 1
    cost: Cost | None = None


def row_of(stored: Mapping[str, Any]) -> Row:
    """A row from JSON, where earlier versions had no costs. Raises KeyError or TypeError where it is not one."""
    gain, cost = stored["joint_gain"], stored.get("cost")
    return Row(
        stored["label"],
        Interval(**stored["reward"]),
        Interval(**gain) if gain else None,
        stored.get("seeds", 1),
        Cost(**cost) if cost else None,
    )


Measure = Callable[[], Awaitable[Scored]]
Kept = Callable[[Mapping[str, Any], Sequence[Question], Measure], Awaitable[Scored]]
"""What a row is of, its questions, and how to measure it -> the row, which may have been kept from before."""


async def as_measured(what: Mapping[str, Any], questions: Sequence[Question], measure: Measure) -> Scored:
    """Nothing is kept."""
    return await measure()


async def score_frozen(
    engine: Engine,
    task: Task,
    questions: Sequence[Question],
    names: Sequence[str],
    sampling: SamplingConfig,
    kept: Kept = as_measured,
    asked_by: Any = None,
) -> dict[Assignment, Scored]:
    """What every assignment of frozen candidates earns on every question, greedy.

    `asked_by` is the task's configuration, for rows that are kept: its prompt and its reward may be searched for.

    Raises:
        ConfigError: more than 64 assignments.
    """
    assignments = list(itertools.product(names, repeat=len(task.roles)))
    if len(assignments) > MOST_ASSIGNMENTS:
        raise ConfigError(
            f"the comparison plays all {len(assignments)} assignments, at most {MOST_ASSIGNMENTS}: "
            "set sweep.comparison: false"
        )
    how = sampling.model_dump(mode="json")
    return {
        z: await kept(
            {"frozen": z, "task": asked_by, "sampling": how},
            questions,
            partial(score_assignment, engine, task, questions, z, sampling),
        )
        for z in assignments
    }


Rewards = Sequence[float] | Sequence[Sequence[float]]
"""Of N questions, or of S seeds by N questions."""


def comparison(
    frozen: Mapping[Assignment, Sequence[float]],
    routers: Mapping[str, Rewards],
    joint: str,
    untrained: Mapping[str, Sequence[float]] | None = None,
    tasks: Sequence[str] = (),
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> list[Row]:
    """Rows in the order they are read: what costs nothing first, `joint` last.

    Random is the exact expectation over assignments; the oracle picks per question the assignment that earned most,
    which no router can see, so part of it is luck: independent answerers, with the same rates on the questions' `tasks`
    (one task where none is said), would give an oracle of luck alone. Without `frozen` none of them has a row.
    `seeds` are those of the routers that have several; gains are over common ones.
    """
    rewards: dict[str, Rewards] = {}
    if frozen:
        per_question = list(zip(*frozen.values(), strict=True))
        rewards[RANDOM] = [fmean(r) for r in per_question]
        rewards |= {f"always {', '.join(z)}": r for z, r in frozen.items()}
    rewards |= untrained or {}
    if frozen:
        rewards[ORACLE] = [max(r) for r in per_question]
    best = _runs(routers[joint]) if joint in routers else None
    known = seeds or {}
    rows = [_row(label, r, best, known.get(label), known.get(joint)) for label, r in rewards.items()]
    if len(frozen) > 1:
        rows.append(_independent(frozen, tasks or [""] * len(per_question), best))
    others = {label: r for label, r in routers.items() if label != joint}
    rows += [_row(label, r, best, known.get(label), known.get(joint)) for label, r in others.items()]
    if best is not None:
        rows.append(Row(joint, runs_interval(best), None, len(best)))
    return rows


def _runs(rewards: Rewards) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(rewards, dtype=float))


def _row(
    label: str,
    rewards: Rewards,
    best: NDArray[np.float64] | None,
    seeds: Sequence[int] | None,
    of_best: Sequence[int] | None,
) -> Row:
    own = _runs(rewards)
    if best is None:
        return Row(label, runs_interval(own), None, len(own))
    if best.shape[1] != own.shape[1]:
        raise ValueError(f"{label}: needs the same questions as the best trial, {best.shape[1]}, got {own.shape[1]}")
    mine, theirs = _paired(best, _seeds(best, of_best), own, _seeds(own, seeds))
    return Row(label, runs_interval(own), paired_runs_interval(mine, theirs), len(own))


def _independent(
    frozen: Mapping[Assignment, Sequence[float]], tasks: Sequence[str], best: NDArray[np.float64] | None
) -> Row:
    """Its rates are measured on the same questions, so both intervals draw the questions they come from."""
    rewards, names = np.asarray(list(frozen.values()), dtype=float), np.asarray(tasks, dtype=object)

    def earns(rows: NDArray[np.intp]) -> float:
        return float(independent(rewards[:, rows], names[rows].tolist()).mean())

    count = rewards.shape[1]
    gain = None
    if best is not None:
        mine = best.mean(0)
        gain = resampled(lambda rows: float(mine[rows].mean()) - earns(rows), count)
    return Row(INDEPENDENT, resampled(earns, count), gain)


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm: mean reward over seeds and questions, its paired difference to the first arm, and what it could tell.

    `seeds` are the means per seed. `resolvable` is the smallest true difference to the first arm that this many
    questions would show with 80 % power, the seeds taken as given; NaN for the first arm itself.
    """

    label: str
    reward: Interval
    difference: Interval | None
    seeds: tuple[float, ...]
    resolvable: float


def arm_rows(
    rewards: Mapping[str, Sequence[Sequence[float]]], seeds: Mapping[str, Sequence[int]] | None = None
) -> list[ArmRow]:
    """Rows in the given order; `rewards[arm]` is (S, N), seeds by questions, the questions in the same order.

    `seeds[arm]` are the S seeds of an arm: the difference to the first arm is taken over the seeds that both have.
    What has no seeds (frozen candidates) has S = 1 and is set against every seed of the first.

    Raises:
        ValueError: an arm without values, or with other questions than the first.
    """
    arrays = {label: np.asarray(values, dtype=float) for label, values in rewards.items()}
    first_label, first = next(iter(arrays.items()))
    named = {label: _seeds(values, (seeds or {}).get(label)) for label, values in arrays.items()}
    rows = []
    for label, values in arrays.items():
        if values.ndim != 2 or not values.size or values.shape[1] != first.shape[1]:
            raise ValueError(f"{label}: needs seeds x {first.shape[1]} questions, got {values.shape}")
        means = tuple(float(v) for v in values.mean(1))
        if values is first:
            rows.append(ArmRow(label, runs_interval(values), None, means, math.nan))
            continue
        own, against = _paired(values, named[label], first, named[first_label])
        difference = paired_runs_interval(own, against)
        rows.append(ArmRow(label, runs_interval(values), difference, means, resolvable(own - against)))
    return rows


def resolvable(paired: NDArray[np.float64]) -> float:
    """(1.96 + 0.84) standard errors of the paired difference (S, N), averaged over seeds, over the questions."""
    questions = paired.shape[1]
    if questions < 2:
        return math.nan
    return float(POWER_80 * paired.mean(0).std(ddof=1) / math.sqrt(questions))


def _seeds(values: NDArray[np.float64], given: Sequence[int] | None) -> Sequence[int]:
    """Those given, else 0 .. S-1; none for a single row without any."""
    if given is not None:
        return tuple(given)
    return range(len(values)) if len(values) > 1 else ()


def _paired(
    values: NDArray[np.float64], seeds: Sequence[int], first: NDArray[np.float64], firsts: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rewards over common seeds; without any, a single row beside every other, or the means, (S, N) each."""
    common = [seed for seed in seeds if seed in firsts]
    if common:
        return values[[seeds.index(seed) for seed in common]], first[[firsts.index(seed) for seed in common]]
    if 1 in (len(values), len(first)):  # the other's spread over seeds stays in the difference
        return values, first
    return values.mean(0)[None], first.mean(0)[None]
