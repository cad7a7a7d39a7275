"""Means, and other statistics, with 95 % intervals over questions and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]

Z = 1.959963984540054
DRAWS = 2000
MANY, LEVELS = 20_000, 1000
"""Of more values that are at most so many different ones, draws are drawn as counts of each: the same bootstrap, in
seconds for millions of questions."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `count` questions and its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Wilson's score interval where rewards are 0 or 1 (it does not vanish at 0 and 1), else the bootstrap.

    The bootstrap resamples questions, 2,000 draws, percentile interval. Raises ValueError without values.
    """
    if not len(values):
        raise ValueError("an interval needs at least one question")
    if _binary(values):
        low, high = wilson(sum(values), len(values))
        return Interval(float(np.mean(values)), low, high, len(values))
    low, high = percentiles(_bootstrap_means(np.asarray(values), seed))
    return Interval(float(np.mean(values)), low, high, len(values))


def seed_interval(values: Sequence[float]) -> Interval:
    """The mean over runs of different seeds, Student's t; one run has no interval (low and high are NaN)."""
    if not len(values):
        raise ValueError("an interval needs at least one run")
    middle, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(middle, math.nan, math.nan, 1)
    from scipy.stats import t  # takes seconds, and trials and drivers that have yet to begin need none of it

    half = float(t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(middle, middle - half, middle + half, count)


def difference_interval(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval:
    """mean(one) - mean(other) of two separate sets of questions.

    Newcombe's hybrid of Wilson intervals (Statistics in Medicine 1998, method 10) for rewards of 0 or 1,
    else the bootstrap of each.
    """
    difference = float(np.mean(one) - np.mean(other))
    count = min(len(one), len(other))
    if _binary(one) and _binary(other):
        a, b = mean_interval(one), mean_interval(other)
        low = difference - math.hypot(a.mean - a.low, b.high - b.mean)
        high = difference + math.hypot(a.high - a.mean, b.mean - b.low)
        return Interval(difference, low, high, count)
    spread = _bootstrap_means(np.asarray(one), seed) - _bootstrap_means(np.asarray(other), seed + 1)
    return Interval(difference, *percentiles(spread), count)


def paired_interval(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval:
    """mean(one - other) over the same questions.

    Tango's score interval for rewards of 0 or 1, else the bootstrap. That has no width where no question differs: of
    samples of 48 questions, one in 25 of which gains and none loses, it holds the truth in 85 %.
    Raises ValueError where the counts differ or are 0.
    """
    if len(one) != len(other) or not len(one):
        raise ValueError(f"paired values need the same questions, one at least: got {len(one)} and {len(other)}")
    values = np.asarray(one, dtype=float) - np.asarray(other, dtype=float)
    if _binary(one) and _binary(other):
        bounds = tango(int((values > 0).sum()), int((values < 0).sum()), len(values))
    else:
        bounds = percentiles(_bootstrap_means(values, seed))
    return Interval(float(values.mean()), *bounds, len(values))


def runs_interval(rewards: NDArray[np.float64]) -> Interval:
    """The mean of rewards (S, N), seeds by questions: of several seeds by two ways, of one over the questions."""
    return two_way_interval(rewards) if len(rewards) > 1 else mean_interval(rewards[0].tolist())


def paired_runs_interval(one: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0) -> Interval:
    """mean(one - other) of rewards (S, N) each, paired by seed and question; either may have one seed for all."""
    if len(one) == len(other) == 1:
        return paired_interval(one[0].tolist(), other[0].tolist(), seed)
    return two_way_interval(one - other, seed)


def two_way_interval(values: NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean of (S, N) rewards; seeds and questions are resampled independently, 2,000 draws, percentiles.

    With few seeds this is somewhat too narrow, as every bootstrap of few values is: the means per seed stand beside it.
    """
    seeds, questions = values.shape
    generator = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        weights = np.bincount(generator.integers(seeds, size=seeds), minlength=seeds) / seeds
        means[draw] = (weights @ values)[generator.integers(questions, size=questions)].mean()
    return Interval(float(values.mean()), *percentiles(means), questions)


def resampled(
    statistic: Callable[[Rows], float], count: int, seed: int = 0, tasks: Sequence[str] | None = None
) -> Interval:
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
    draws = [statistic(np.concatenate([generator.choice(rows, len(rows)) for rows in strata])) for _ in range(DRAWS)]
    return Interval(statistic(np.arange(count)), *percentiles(np.asarray(draws)), count)


def wilson(successes: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    p = successes / count
    middle = p + Z**2 / (2 * count)
    half = Z * math.sqrt(p * (1 - p) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def tango(gains: int, losses: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of (gains - losses) / count, of `count` pairs (Tango, Statistics in Medicine 1998).

    All differences d with |z(d)| <= 1.96, where z = (gains - losses - n d) / sqrt(n (2 q + d (1 - d))) and q is the
    probability of a loss that is likeliest given d.
    """
    return _furthest(gains, losses, count, -1.0), _furthest(gains, losses, count, 1.0)


def _furthest(gains: int, losses: int, count: int, outside: float) -> float:
    """The difference on the way from the observed one to `outside` at which the score test begins to refuse."""
    inside = (gains - losses) / count
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(_score(gains, losses, count, middle)) <= Z:
            inside = middle
        else:
            outside = middle
    return inside


def _score(gains: int, losses: int, count: int, difference: float) -> float:
    a = 2 * count
    b = (a - gains + losses) * difference - gains - losses
    c = -losses * difference * (1 - difference)
    loss = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = count * (2 * loss + difference * (1 - difference))
    off = gains - losses - count * difference
    return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off)


def percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th of a statistic's draws; those that are not defined (NaN) are left out."""
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (math.nan, math.nan)
    return float(low), float(high)


def _binary(values: Sequence[float]) -> bool:
    return all(v in (0.0, 1.0) for v in values)


def _bootstrap_means(values: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if len(values) > MANY:
        different, counts = np.unique(values, return_counts=True)
        if len(different) <= LEVELS:
            drawn = generator.multinomial(len(values), counts / len(values), DRAWS)
            return np.asarray(drawn @ different / len(values))
    picks = (generator.choice(values, len(values)) for _ in range(DRAWS))
    return np.fromiter((p.mean() for p in picks), float, DRAWS)


def _strata(count: int, tasks: Sequence[str] | None) -> list[Rows]:
    if tasks is None:
        return [np.arange(count)]
    names = np.asarray(tasks, dtype=object)
    return [np.flatnonzero(names == task) for task in sorted(set(tasks))]
