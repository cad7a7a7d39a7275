"""The cost-quality curve of a router: what it earns and costs as cost gains weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import Floats, filled
from haps_search.evaluation.routing_metrics.routes import earned, routes

POINTS = 40


@dataclass(frozen=True)
class Curve:
    """P operating points of one router over N questions.

    `weights` (P,) are the weights of cost, ascending from 0; `rewards` and `costs` (P, N) are what each question
    earns and costs under them.
    """

    weights: NDArray[np.float64]
    rewards: NDArray[np.float64]
    costs: NDArray[np.float64]

    def points(self, rows: NDArray[np.intp] | slice = slice(None)) -> NDArray[np.float64]:
        """(mean cost, mean reward) over the questions of `rows`, (P, 2)."""
        return np.stack([self.costs[:, rows].mean(axis=1), self.rewards[:, rows].mean(axis=1)], axis=1)


def sweep(
    scores: Floats, prices: Floats, rewards: Floats, costs: Floats, weights: Sequence[float] | None = None
) -> Curve:
    """Route every question by scores - weight * prices, for each weight.

    `prices` (C,) or (N, C) are what the router knows before it pays, `costs` (N, C) what is paid (a missing one is
    taken at its price). Without `weights` they are chosen where routes change (`cost_weights`).
    """
    chosen = cost_weights(scores, prices) if weights is None else np.asarray(sorted(weights), dtype=np.float64)
    paid = filled(costs, prices)
    shares = [routes(scores, rewards, prices, weight) for weight in chosen]
    return Curve(chosen, np.stack([earned(s, rewards) for s in shares]), np.stack([earned(s, paid) for s in shares]))


def cost_weights(scores: Floats, prices: Floats, count: int = POINTS) -> NDArray[np.float64]:
    """At most `count` weights of cost, ascending: 0, quantiles of the weights at which two assignments of a question
    change places, and one beyond the last change, where the cheapest assignment takes all.

    Assignments i and j of a question change places at (s_i - s_j) / (p_i - p_j), where that is positive.
    """
    gains = scores[:, :, None] - scores[:, None, :]
    extra = np.broadcast_to(prices, scores.shape)
    dearer = extra[:, :, None] - extra[:, None, :]
    changes = gains[(dearer > 0) & (gains > 0)] / dearer[(dearer > 0) & (gains > 0)]
    if not len(changes):
        return np.zeros(1)
    between = np.quantile(changes, np.linspace(0, 1, count - 2))
    return np.unique(np.concatenate([[0.0], between, [changes.max() * 2]]))
