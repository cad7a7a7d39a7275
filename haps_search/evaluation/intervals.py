"""Means with 95 % intervals over questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

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
    low, high = _percentiles(_bootstrap_means(np.asarray(values), seed))
    return Interval(float(np.mean(values)), low, high, len(values))


def seed_interval(values: Sequence[float]) -> Interval:
    """The mean over runs of different seeds, Student's t; one run has no interval (low and high are NaN)."""
    if not len(values):
        raise ValueError("an interval needs at least one run")
    middle, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(middle, math.nan, math.nan, 1)
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
    return Interval(difference, *_percentiles(spread), count)


def paired_interval(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval:
    """mean(one - other) over the same questions, bootstrap. Raises ValueError where the counts differ or are 0."""
    if len(one) != len(other) or not len(one):
        raise ValueError(f"paired values need the same questions, one at least: got {len(one)} and {len(other)}")
    values = np.asarray(one) - np.asarray(other)
    return Interval(float(values.mean()), *_percentiles(_bootstrap_means(values, seed)), len(values))


def wilson(successes: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    p = successes / count
    middle = p + Z**2 / (2 * count)
    half = Z * math.sqrt(p * (1 - p) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


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


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
