"""Each model on its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haps_search.evaluation.intervals import Interval, mean_interval
from haps_search.evaluation.pool_report.complete import Complete, names
from haps_search.evaluation.routing_metrics.cells import assignment_means
from haps_search.tasks.outcome_table import OutcomeTable


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
