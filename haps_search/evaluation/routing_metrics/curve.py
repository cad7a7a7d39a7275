"""The cost-quality curve of a router: what it earns and costs as cost gains weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.routes import Floats, earned, filled, routes

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


def non_decreasing_hull(points: Floats) -> NDArray[np.float64]:
    """The vertices, by cost, of the upper convex hull of (cost, quality) points up to the best quality.

    (P, 2) -> (V, 2), costs and qualities strictly ascending. A point between two vertices is reached by sending a
    share of the questions to each; beyond the last, more money buys nothing (RouterBench, arXiv 2403.12031).
    Raises ValueError without points, or where one is not finite.
    """
    if not len(points) or not np.isfinite(points).all():
        raise ValueError("points: needs one finite (cost, quality) at least")
    hull: list[NDArray[np.float64]] = []
    # By cost; of equal costs the best quality comes last and pushes the others out.
    for point in np.asarray(points, dtype=np.float64)[np.lexsort((points[:, 1], points[:, 0]))]:
        while hull and (hull[-1][0] == point[0] or (len(hull) > 1 and not _below(hull[-2], hull[-1], point))):
            hull.pop()
        hull.append(point)
    vertices = np.stack(hull)
    return vertices[: int(np.argmax(vertices[:, 1])) + 1]


def aiq(points: Floats, cost_range: tuple[float, float] | None = None) -> float:
    """Area under the non-decreasing convex hull of (cost, quality) points over a cost range, divided by its width.

    AIQ = 1 / (c_max - c_min) * integral of the hull from c_min to c_max (RouterBench, arXiv 2403.12031),
    in units of quality. Curves are comparable over one `cost_range` only: give the mean costs of the cheapest and
    the dearest assignment; without it, it is the points' own. To the right of its points a curve stays flat, to the
    left it falls in a line to (0, 0), where questions go unanswered. RouterBench's released code differs: it starts
    at each curve's own first point and divides by c_max. A range without width gives the quality there.

    A cheap and bad point more can lower it, since the line to (0, 0) then begins there: see `aiq0`.
    Raises ValueError for a range that is not ascending from 0 or more.
    """
    hull = non_decreasing_hull(points)
    if hull[0, 0] > 0:
        hull = np.concatenate([[[0.0, 0.0]], hull])
    return _mean_height(hull, cost_range or _own_range(points))


def aiq0(points: Floats, cost_range: tuple[float, float] | None = None) -> float:
    """AIQ with (0, 0), where no question is answered, as a point of the hull: over one `cost_range` a point more never
    lowers it, since all that could be reached before still can. Never less than `aiq`, and the same where qualities
    per cost fall from the first point of its hull on. Raises ValueError as `aiq`.
    """
    hull = non_decreasing_hull(np.concatenate([[[0.0, 0.0]], points]))
    return _mean_height(hull, cost_range or _own_range(points))


def _own_range(points: Floats) -> tuple[float, float]:
    return float(points[:, 0].min()), float(points[:, 0].max())


def _mean_height(hull: NDArray[np.float64], cost_range: tuple[float, float]) -> float:
    """The area under a line from cost 0 on, flat to its right, over a range and divided by its width."""
    low, high = cost_range
    if not 0 <= low <= high:
        raise ValueError(f"cost_range: got {(low, high)}, needs 0 <= low <= high")
    inside = hull[(hull[:, 0] > low) & (hull[:, 0] < high), 0]
    costs = np.concatenate([[low], inside, [high]])
    qualities = np.interp(costs, hull[:, 0], hull[:, 1])
    return float(np.trapezoid(qualities, costs) / (high - low)) if high > low else float(qualities[0])


def _below(one: NDArray[np.float64], other: NDArray[np.float64], point: NDArray[np.float64]) -> bool:
    """Whether the slope falls at `other` on the way from `one` to `point`."""
    return bool((other[1] - one[1]) * (point[0] - other[0]) > (point[1] - other[1]) * (other[0] - one[0]))


LEAST = 1e-12
"""Probabilities below it count as it, so that their logarithm is finite."""


def router_curve(
    probabilities: Floats, priced: Mapping[float, Floats], prices: Floats, rewards: Floats, costs: Floats
) -> Curve:
    """The curve of a router with `probabilities` (N, C), and with those of `priced` where it is told a weight of cost.

    One that is told none is swept at decision time by log p(z|x) - w * price(z). Where log p is a predicted reward up
    to scale and a constant of the question (losses squared_error and soft_targets), this is predicted reward less
    weighted cost, and w running over all weights makes the scale immaterial; under other losses log p is a ranking and
    the curve a heuristic, which its figures judge. `prices` are (C,), `rewards` and `costs` (N, C).
    """
    if not priced:
        return sweep(np.log(np.maximum(probabilities, LEAST)), prices, rewards, costs)
    by_weight = {0.0: probabilities, **priced}
    weights = sorted(by_weight)
    shares = [routes(by_weight[weight], rewards) for weight in weights]
    paid = filled(costs, prices)
    return Curve(
        np.asarray(weights),
        np.stack([earned(s, rewards) for s in shares]),
        np.stack([earned(s, paid) for s in shares]),
    )
