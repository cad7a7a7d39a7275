"""The judgement task by task: where the router gains, and where it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.replay.methods import Method
from haps_search.evaluation.replay.standings import paired


@dataclass(frozen=True)
class TaskRow:
    """One task: mean reward of each method over its `questions`, and the router minus the best reference."""

    task: str
    questions: int
    rewards: Mapping[str, float]
    difference: Interval


def task_rows(shown: Sequence[Method], router: Method, best: Method, tasks: Sequence[str]) -> list[TaskRow]:
    """A row per task, largest first; `shown` are the methods whose means stand there.

    A task has few questions and there are many tasks: one interval in twenty misses its value by chance.
    """
    names = np.asarray(tasks, dtype=object)
    found = []
    for task in sorted(set(tasks)):
        own = names == task
        part = {method.label: float(method.rewards[:, own].mean()) for method in shown}
        found.append(TaskRow(task, int(own.sum()), part, paired(_only(router, own), _only(best, own))))
    return sorted(found, key=lambda row: (-row.questions, row.task))


def _only(method: Method, own: np.ndarray) -> Method:
    return Method(method.label, method.kind, method.shares[:, own], method.rewards[:, own])
