"""What choosing earns: at random, always the best, by the task's name, by hindsight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval, wilson
from haps_search.evaluation.pool_report.complete import Complete
from haps_search.evaluation.references.best_per_task import BestPerTask
from haps_search.evaluation.references.labelled import Labelled
from haps_search.tasks.tables.splits import folds

Floats = NDArray[np.float64]
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to choose: its mean reward, its paired gain over the best single model, its cost per question."""

    reward: Interval
    gain: Interval
    cost: float | None


@dataclass(frozen=True, slots=True)
class Gains:
    """Ways to choose, over `questions` that every model answered. `best_per_task` is None without two tasks.

    The best single model and the per-query oracle are chosen in hindsight; the best per task is not.
    """

    questions: int
    best_model: str
    same_choice: bool
    """Whether the best per task chooses the best single model on every question."""
    random: Choice
    best_single: Choice
    best_per_task: Choice | None
    oracle: Choice


def gains(part: Complete) -> Gains:
    """Compare the ways to choose on the same questions."""
    everyone = np.full(part.rewards.shape, 1 / len(part.names))
    by_task = _task_choice(part) if len(set(part.tasks)) > 1 else None
    return Gains(
        questions=len(part.rewards),
        best_model=part.names[part.best],
        same_choice=by_task is not None and bool((by_task == part.best).all()),
        random=_choice(part, everyone),
        best_single=_choice(part, _one_hot(part, np.full(len(part.rewards), part.best))),
        best_per_task=None if by_task is None else _choice(part, _one_hot(part, by_task)),
        oracle=_choice(part, _one_hot(part, _oracle_choice(part))),
    )


def oracle_choice(rewards: Floats, best: int) -> NDArray[np.intp]:
    """The column of the largest reward of each row (M, C) -> (M,); of equals the best single, then the first."""
    preferred = rewards.copy()
    preferred[:, best] += _TIE
    return preferred.argmax(axis=1)


def _oracle_choice(part: Complete) -> NDArray[np.intp]:
    """Where costs are known, the cheapest of the best."""
    if part.costs is None:
        return oracle_choice(part.rewards, part.best)
    top = part.rewards >= part.rewards.max(axis=1, keepdims=True) - _TIE
    return np.where(top, part.costs, np.inf).argmin(axis=1)


def _task_choice(part: Complete) -> NDArray[np.intp]:
    """Per question, the model that is best on its task among the questions of the other hash half."""
    half = folds(part.texts, 2)
    chosen = np.full(len(half), part.best)
    for side in (0, 1):
        learnt, judged = half != side, half == side
        if learnt.any() and judged.any():
            oracle = BestPerTask()
            oracle.fit(_labelled(part, learnt), seed=0)
            scores = np.asarray(oracle.scores(_labelled(part, judged)), np.float64)
            chosen[judged] = oracle_choice(scores, part.best)
    return chosen


def _labelled(part: Complete, rows: NDArray[np.bool_]) -> Labelled:
    tasks = tuple(task for task, taken in zip(part.tasks, rows, strict=True) if taken)
    return Labelled(np.zeros((len(tasks), 0)), tasks, part.rewards[rows])


def _one_hot(part: Complete, chosen: NDArray[np.intp]) -> Floats:
    return np.eye(len(part.names))[chosen]


def _choice(part: Complete, weights: Floats) -> Choice:
    """`weights` (M, C) are the probabilities of choosing each model."""
    earned = (part.rewards * weights).sum(axis=1)
    single = part.rewards[:, part.best]
    cost = None if part.costs is None else float((part.costs * weights).sum(axis=1).mean())
    return Choice(mean_interval(earned.tolist()), _gain(earned, single), cost)


def _gain(earned: Floats, single: Floats) -> Interval:
    """Where no question differs the bootstrap has no width: then Wilson's bound on a share that was never seen."""
    if (earned == single).all():
        return Interval(0.0, 0.0, wilson(0, len(earned))[1], len(earned))
    return paired_interval(earned.tolist(), single.tolist())
