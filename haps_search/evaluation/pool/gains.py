"""The questions that every model answered: only on these can choices between models be compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval, wilson
from haps_search.evaluation.references.best_per_task import BestPerTask
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.routing_metrics.routes import assignment_means, filled, prices
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.tables.splits import Digests


@dataclass(frozen=True)
class Complete:
    """M questions without gaps: `rewards` (M, C) float64, `costs` (M, C) or None, `best` the best single column.

    Where a cost is missing, the model's mean cost stands in, or the dearest one's where it has none.
    """

    names: tuple[str, ...]
    digests: Digests
    tasks: tuple[str, ...]
    rewards: NDArray[np.float64]
    samples: NDArray[np.int32]
    costs: NDArray[np.float64] | None
    best: int


def complete(table: OutcomeTable, texts: Digests) -> Complete | None:
    """The complete part of a table, None where no question is complete; `texts` are those of all its questions.

    Of equally good models the cheaper is best.
    """
    rows = np.flatnonzero(~np.isnan(table.rewards).any(axis=1))
    if not len(rows):
        return None
    rewards = table.rewards[rows].astype(np.float64)
    costs = _costs(table)
    return Complete(
        names=names(table),
        digests=texts.take(rows),
        tasks=tuple(table.tasks[i] for i in rows),
        rewards=rewards,
        samples=table.samples[rows],
        costs=None if costs is None else costs[rows],
        best=_best(rewards, costs),
    )


def names(table: OutcomeTable) -> tuple[str, ...]:
    """A model's name; of several roles, all names."""
    return tuple(", ".join(assignment) for assignment in table.assignments)


def _costs(table: OutcomeTable) -> NDArray[np.float64] | None:
    if table.costs is None or np.isnan(table.costs).all():
        return None
    return filled(table.costs, prices(table.costs))


def _best(rewards: NDArray[np.float64], costs: NDArray[np.float64] | None) -> int:
    means = rewards.mean(axis=0)
    paid = np.zeros(len(means)) if costs is None else costs.mean(axis=0)
    best = np.flatnonzero(np.isclose(means, means.max(), rtol=0, atol=1e-12))
    return int(best[np.argsort(paid[best], kind="stable")[0]])


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model's mean reward over the questions it answered, and its mean cost, None where nobody knows it.

    `only_best` is the share of complete questions on which it earned more than every other model; None where no
    question is complete.
    """

    name: str
    reward: Interval | None
    answered: int
    cost: float | None
    only_best: float | None


def model_lines(table: OutcomeTable, part: Complete | None) -> tuple[ModelLine, ...]:
    """The models, best mean first."""
    prices = None if table.costs is None else assignment_means(table.costs)
    alone = None if part is None else _only_best(part.rewards)
    lines = []
    for c, name in enumerate(names(table)):
        rewards = table.rewards[:, c].astype(np.float64)
        rewards = rewards[~np.isnan(rewards)]
        lines.append(
            ModelLine(
                name=name,
                reward=mean_interval(rewards.tolist()) if len(rewards) else None,
                answered=len(rewards),
                cost=None if prices is None or np.isnan(prices[c]) else float(prices[c]),
                only_best=None if alone is None else float(alone[c]),
            )
        )
    return tuple(sorted(lines, key=lambda line: -1.0 if line.reward is None else line.reward.mean, reverse=True))


def _only_best(rewards: np.ndarray) -> np.ndarray:
    top = rewards == rewards.max(axis=1, keepdims=True)
    return np.asarray((top & (top.sum(axis=1, keepdims=True) == 1)).mean(axis=0))


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
    half = part.digests.folds(2)
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
