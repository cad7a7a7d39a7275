"""The comparison table: what a searched router is worth beside what needs no search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.config.run import SamplingConfig
from haps_search.errors import ConfigError
from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval
from haps_search.search.engine import Engine
from haps_search.search.validation import Scored, score_assignment
from haps_search.tasks.task import Task
from haps_search.types import Assignment, Question

MOST_ASSIGNMENTS = 64

RANDOM = "random"
ORACLE = "per-query oracle"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: mean reward with interval, and the joint router's paired gain over it."""

    label: str
    reward: Interval
    joint_gain: Interval | None


async def score_frozen(
    engine: Engine, task: Task, questions: Sequence[Question], names: Sequence[str], sampling: SamplingConfig
) -> dict[Assignment, Scored]:
    """What every assignment of frozen candidates earns on every question, greedy.

    Raises:
        ConfigError: more than 64 assignments.
    """
    assignments = list(itertools.product(names, repeat=len(task.roles)))
    if len(assignments) > MOST_ASSIGNMENTS:
        raise ConfigError(
            f"the comparison plays all {len(assignments)} assignments, at most {MOST_ASSIGNMENTS}: "
            "set sweep.comparison: false"
        )
    return {z: await score_assignment(engine, task, questions, z, sampling) for z in assignments}


def comparison(
    frozen: Mapping[Assignment, Sequence[float]], routers: Mapping[str, Sequence[float]], joint: str
) -> list[Row]:
    """Rows in the order they are read: what costs nothing first, `joint` last.

    Random is the exact expectation over assignments; the oracle picks per question the assignment that
    earned most, which no router can see, so part of it is luck. Without `frozen` neither has a row.
    """
    rewards: dict[str, Sequence[float]] = {}
    if frozen:
        per_question = list(zip(*frozen.values(), strict=True))
        rewards[RANDOM] = [fmean(r) for r in per_question]
        rewards |= {f"always {', '.join(z)}": r for z, r in frozen.items()}
        rewards[ORACLE] = [max(r) for r in per_question]
    rewards |= {label: r for label, r in routers.items() if label != joint}
    best = routers.get(joint)
    rows = [
        Row(label, mean_interval(r), None if best is None else paired_interval(best, r)) for label, r in rewards.items()
    ]
    if best is not None:
        rows.append(Row(joint, mean_interval(best), None))
    return rows
