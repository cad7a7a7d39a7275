"""Intervals of any metric over questions, and over seeds beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation import intervals
from haps_search.evaluation.intervals import Interval, paired_interval, seed_interval
from haps_search.evaluation.routing_metrics.routes import Floats

Rows = NDArray[np.intp]
Statistic = Callable[[Rows], float]


def resampled(statistic: Statistic, count: int, seed: int = 0, tasks: Sequence[str] | None = None) -> Interval:
    """A statistic of `count` questions and its 95 % percentile bootstrap interval over questions.

    `statistic` gets the rows it is to be computed from, some of them several times, so whatever is compared in it is
    paired. With `tasks` questions are drawn within their task, whose sizes stay: for means over tasks. Draws in
    which it is undefined (NaN) are left out. As for any percentile bootstrap, a statistic that is a maximum over
    few points, such as AIQ, is a little optimistic in its draws.
    """
    if not count:
        raise ValueError("an interval needs at least one question")
    generator = np.random.default_rng(seed)
    strata = _strata(count, tasks)
    draws = [
        statistic(np.concatenate([generator.choice(rows, len(rows)) for rows in strata]))
        for _ in range(intervals.DRAWS)
    ]
    whole = statistic(np.arange(count))
    defined = np.asarray(draws)[~np.isnan(draws)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
    return Interval(whole, float(low), float(high), count)


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """The mean over seeds of the means over questions, with its interval over questions and that over seeds."""

    questions: Interval
    seeds: Interval


def over_seeds(rewards: Sequence[Floats], seed: int = 0) -> OverSeeds:
    """One router trained with S seeds: per-question rewards (N,) of each, over the same questions.

    The interval over questions is of the per-question mean over seeds; that over seeds is Student's, of the S means.
    """
    return paired_over_seeds(rewards, [np.zeros_like(rewards[0])], seed)


def paired_over_seeds(one: Sequence[Floats], other: Sequence[Floats], seed: int = 0) -> OverSeeds:
    """What one router earns more than another on the same questions; either may have a single seed.

    Raises ValueError where both have several seeds and not as many.
    """
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        raise ValueError(f"seeds: got {len(one)} and {len(other)}, needs as many of both, or one of either")
    gains = np.stack(one) - np.stack(other)
    questions = gains.mean(axis=0)
    return OverSeeds(
        paired_interval(questions.tolist(), [0.0] * len(questions), seed), seed_interval(gains.mean(axis=1).tolist())
    )


def _strata(count: int, tasks: Sequence[str] | None) -> list[Rows]:
    if tasks is None:
        return [np.arange(count)]
    names = np.asarray(tasks, dtype=object)
    return [np.flatnonzero(names == task) for task in sorted(set(tasks))]
