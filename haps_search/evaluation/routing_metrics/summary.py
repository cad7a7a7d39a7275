"""A router's line in the table: all metrics that need no cost, each with its interval over questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval, resampled
from haps_search.evaluation.routing_metrics.routes import Floats


@dataclass(frozen=True)
class Summary:
    """One router on N questions. `over_best_single` is the paired gain in reward; the others stand in `gains`."""

    micro: Interval
    macro: Interval
    over_best_single: Interval
    gap_closed: Interval
    gain_at_best: Interval
    gap_at_oracle: Interval
    regret: Interval


def summarise(router: Floats, best_single: Floats, oracle: Floats, tasks: Sequence[str], seed: int = 0) -> Summary:
    """Per-question rewards (N,) of a router, of the best single assignment and of the per-query oracle.

    The gap closed is of micro means; Gain@B and Gap@O are of macro means, drawn within tasks.
    """
    count = len(router)
    _, numbers = np.unique(tasks, return_inverse=True)

    def macro(values: Floats, rows: np.ndarray) -> float:
        return macro_mean(values[rows], numbers[rows])

    return Summary(
        micro=mean_interval(router.tolist(), seed),
        macro=resampled(lambda rows: macro(router, rows), count, seed, tasks),
        over_best_single=paired_interval(router.tolist(), best_single.tolist(), seed),
        gap_closed=resampled(
            lambda rows: gap_closed(micro_mean(router[rows]), micro_mean(best_single[rows]), micro_mean(oracle[rows])),
            count,
            seed,
        ),
        gain_at_best=resampled(
            lambda rows: gain_at_best(macro(router, rows), macro(best_single, rows)), count, seed, tasks
        ),
        gap_at_oracle=resampled(
            lambda rows: gap_at_oracle(macro(router, rows), macro(oracle, rows)), count, seed, tasks
        ),
        regret=mean_interval((oracle - router).tolist(), seed),
    )


def micro_mean(values: Floats) -> float:
    """The mean over questions, (N,): large tasks count for more."""
    return float(np.mean(values))


def macro_mean(values: Floats, tasks: Sequence[str] | NDArray[np.intp]) -> float:
    """The mean over tasks of the mean over each task's questions, (N,): every task counts alike.

    `tasks` are names, or numbers that stand for them.
    """
    _, task = np.unique(tasks, return_inverse=True)
    return float(np.mean(np.bincount(task, weights=values) / np.bincount(task)))


def gap_closed(router: float, best_single: float, oracle: float) -> float:
    """(router - best single) / (oracle - best single): 0 is no better than one assignment, 1 the per-query oracle.

    RouteLLM's performance gap recovered (arXiv 2406.18665) with the best single assignment for its weak
    model and the oracle for its strong one. NaN where the oracle gains nothing, so that there is no gap to close.
    """
    gap = oracle - best_single
    return (router - best_single) / gap if gap > 0 else math.nan


def gain_at_best(router: float, best_single: float) -> float:
    """Gain@B of LLMRouterBench (arXiv 2601.07206): router / best single - 1, each a macro mean.

    There the best single is known in hindsight; give it such a one where figures are to be compared. NaN where the
    best single earns nothing.
    """
    return router / best_single - 1 if best_single > 0 else math.nan


def gap_at_oracle(router: float, oracle: float) -> float:
    """Gap@O of LLMRouterBench (arXiv 2601.07206): 1 - router / oracle, each a macro mean; 0 is the oracle itself.

    NaN where the oracle earns nothing.
    """
    return 1 - router / oracle if oracle > 0 else math.nan


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
