"""A warmed router beside what needs no router, on the questions it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval
from haps_search.evaluation.labels import ORACLE, RANDOM
from haps_search.learning.from_tables import Scores
from haps_search.types import Assignment

EXPECTED, LIKELIEST = "router, drawn", "router, likeliest"


@dataclass(frozen=True, slots=True)
class WarmupRow:
    """Mean reward with interval, and the paired gain of the router's likeliest assignment over it."""

    label: str
    reward: Interval
    gain: Interval | None


def warmup_rows(
    train: NDArray[np.float64], held_out: NDArray[np.float64], assignments: Sequence[Assignment], router: Scores
) -> list[WarmupRow]:
    """Rows over held-out rewards (N, C), NaN where missing; every row of rewards has a known cell.

    Random and oracle are over each question's known cells. The best single assignment is chosen on `train` (M, C)
    by its mean over known cells, and measured where it is known. The oracle picks in hindsight, so part of it is luck.
    """
    best = best_single(train)
    rewards = {
        RANDOM: np.nanmean(held_out, 1),
        f"always {', '.join(assignments[best])}": held_out[:, best],
        EXPECTED: router.expected,
        LIKELIEST: router.greedy,
        ORACLE: np.nanmax(held_out, 1),
    }
    return [_row(label, values, router.greedy) for label, values in rewards.items() if not np.isnan(values).all()]


def best_single(rewards: NDArray[np.float64]) -> int:
    """The column of the highest mean over its known cells."""
    known = ~np.isnan(rewards)
    sums = np.where(known, rewards, 0.0).sum(0)
    return int(np.where(known.any(0), sums / np.maximum(known.sum(0), 1), -np.inf).argmax())


def _row(label: str, values: NDArray[np.float64], router: NDArray[np.float64]) -> WarmupRow:
    known = ~np.isnan(values)
    mine, others = router[known].tolist(), values[known].tolist()
    return WarmupRow(label, mean_interval(others), None if label == LIKELIEST else paired_interval(mine, others))
