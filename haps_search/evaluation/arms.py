"""Arms of a study side by side: the same questions and the same seeds under each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import DRAWS, Interval

POWER_80 = 1.959963984540054 + 0.8416212335729143
"""Two-sided 5 % test, 80 % power, in standard errors."""


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm: mean reward over seeds and questions, its paired difference to the first arm, and what it could tell.

    `seeds` are the means per seed. `resolvable` is the smallest true difference to the first arm that this many
    questions would show with 80 % power, the seeds taken as given; NaN for the first arm itself.
    """

    label: str
    reward: Interval
    difference: Interval | None
    seeds: tuple[float, ...]
    resolvable: float


def arm_rows(
    rewards: Mapping[str, Sequence[Sequence[float]]], seeds: Mapping[str, Sequence[int]] | None = None
) -> list[ArmRow]:
    """Rows in the given order; `rewards[arm]` is (S, N), seeds by questions, the questions in the same order.

    `seeds[arm]` are the S seeds of an arm: the difference to the first arm is taken over the seeds that both have.
    What has no seeds (frozen candidates) has S = 1 and is set against every seed of the first.

    Raises:
        ValueError: an arm without values, or with other questions than the first.
    """
    arrays = {label: np.asarray(values, dtype=float) for label, values in rewards.items()}
    first_label, first = next(iter(arrays.items()))
    named = {label: _seeds(values, (seeds or {}).get(label)) for label, values in arrays.items()}
    rows = []
    for label, values in arrays.items():
        if values.ndim != 2 or not values.size or values.shape[1] != first.shape[1]:
            raise ValueError(f"{label}: needs seeds x {first.shape[1]} questions, got {values.shape}")
        means = tuple(float(v) for v in values.mean(1))
        if values is first:
            rows.append(ArmRow(label, two_way_interval(values), None, means, math.nan))
            continue
        paired = _paired(values, named[label], first, named[first_label])
        rows.append(ArmRow(label, two_way_interval(values), two_way_interval(paired), means, resolvable(paired)))
    return rows


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
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), questions)


def resolvable(paired: NDArray[np.float64]) -> float:
    """(1.96 + 0.84) standard errors of the paired difference (S, N), averaged over seeds, over the questions."""
    questions = paired.shape[1]
    if questions < 2:
        return math.nan
    return float(POWER_80 * paired.mean(0).std(ddof=1) / math.sqrt(questions))


def _seeds(values: NDArray[np.float64], given: Sequence[int] | None) -> Sequence[int]:
    """Those given, else 0 .. S-1; none for a single row without any."""
    if given is not None:
        return tuple(given)
    return range(len(values)) if len(values) > 1 else ()


def _paired(
    values: NDArray[np.float64], seeds: Sequence[int], first: NDArray[np.float64], firsts: Sequence[int]
) -> NDArray[np.float64]:
    """Differences (S, N) over common seeds; without any, of a single row to every other, or of the means."""
    common = [seed for seed in seeds if seed in firsts]
    if common:
        return values[[seeds.index(seed) for seed in common]] - first[[firsts.index(seed) for seed in common]]
    if 1 in (len(values), len(first)):  # the other's spread over seeds stays in the difference
        return values - first
    return (values.mean(0) - first.mean(0))[None]
