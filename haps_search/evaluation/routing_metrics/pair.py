"""RouteLLM's metrics for two assignments, a strong and a weak one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import Floats


def recovered(preference: Floats, weak: Floats, strong: Floats) -> NDArray[np.float64]:
    """The performance gap recovered (PGR) when the first k of N questions go to the strong assignment, (N + 1,).

    PGR = (mean of the routed rewards - mean of weak) / (mean of strong - mean of weak) (RouteLLM, arXiv 2406.18665),
    so 0 at k = 0 and 1 at k = N. `preference` (N,) says who goes first, such as the predicted score of
    strong less that of weak; equal ones go in no order, as the expectation. `weak` and `strong` (N,) are rewards,
    none missing. All NaN where strong is not better on average: there is no gap to recover.
    """
    gains = np.asarray(strong - weak, dtype=np.float64)
    if np.isnan(gains).any():
        raise ValueError("weak and strong: got missing rewards, needs both on every question: leave the others out")
    if gains.sum() <= 0:
        return np.full(len(gains) + 1, np.nan)
    _, group, counts = np.unique(-preference, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=gains) / counts
    return np.concatenate([[0.0], np.cumsum(np.repeat(means, counts))]) / gains.sum()


def apgr(preference: Floats, weak: Floats, strong: Floats) -> float:
    """Average PGR: the area under PGR over the share of questions sent to strong, from 0 to 1.

    RouteLLM (arXiv 2406.18665) averages PGR over ten thresholds; this is the whole curve by the
    trapezoid rule, so random routing has 0.5 exactly. It can exceed 1. NaN where strong is not better.
    """
    curve = recovered(preference, weak, strong)
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def cpt(preference: Floats, weak: Floats, strong: Floats, share: float) -> float:
    """Call-performance threshold, CPT(50) for `share` 0.5: the smallest share of questions, in [0, 1], that must go
    to strong to recover `share` of the gap (RouteLLM, arXiv 2406.18665).

    Between two counts of calls the curve is a line. Random routing has CPT(x) = x. NaN where strong is not better.
    Raises ValueError for a share that is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}, needs more than 0 and at most 1, such as 0.5 for CPT(50)")
    curve = recovered(preference, weak, strong)
    if np.isnan(curve[0]):
        return math.nan
    # The last sum may miss 1 by rounding.
    wanted = min(share, float(curve.max()))
    after = int(np.argmax(curve >= wanted))
    before, reached = curve[after - 1], curve[after]
    return float((after - 1 + (wanted - before) / (reached - before)) / (len(curve) - 1))
