"""A router's line in the table: all metrics that need no cost, each with its interval over questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval
from haps_search.evaluation.routing_metrics.bootstrap import resampled
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.evaluation.routing_metrics.gains import (
    gain_at_best,
    gap_at_oracle,
    gap_closed,
    macro_mean,
    micro_mean,
)


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
        regret=paired_interval(oracle.tolist(), router.tolist(), seed),
    )
