"""AIQ, the average improvement in quality of RouterBench."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import Floats


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
    Raises ValueError for a range that is not ascending from 0 or more.
    """
    hull = non_decreasing_hull(points)
    low, high = cost_range or (float(points[:, 0].min()), float(points[:, 0].max()))
    if not 0 <= low <= high:
        raise ValueError(f"cost_range: got {(low, high)}, needs 0 <= low <= high")
    if hull[0, 0] > 0:
        hull = np.concatenate([[[0.0, 0.0]], hull])
    inside = hull[(hull[:, 0] > low) & (hull[:, 0] < high), 0]
    costs = np.concatenate([[low], inside, [high]])
    qualities = np.interp(costs, hull[:, 0], hull[:, 1])
    return float(np.trapezoid(qualities, costs) / (high - low)) if high > low else float(qualities[0])


def _below(one: NDArray[np.float64], other: NDArray[np.float64], point: NDArray[np.float64]) -> bool:
    """Whether the slope falls at `other` on the way from `one` to `point`."""
    return bool((other[1] - one[1]) * (point[0] - other[0]) > (point[1] - other[1]) * (other[0] - one[0]))
