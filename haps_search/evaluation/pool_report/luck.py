"""How much of the per-query oracle's gain is a matter of single lucky runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, paired_interval
from haps_search.evaluation.pool_report.complete import Complete
from haps_search.evaluation.pool_report.gains import oracle_choice

_HALVINGS = 20
_ROUNDING = 1e-3

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Luck:
    """`sure_gain` is what the oracle gains when it chooses by one half of the samples and is paid by the other.

    It is None where that cannot be told, with the reason in `unknown`.
    """

    sure_gain: Interval | None
    unknown: str = ""


def luck(part: Complete, seed: int = 0) -> Luck:
    """Split-half check of the per-query oracle, over questions whose cells were all measured twice or more.

    In expectation a lower bound of what a router that knew every question's true means would gain: half of the
    samples choose worse than all. Needs rewards of 0 and 1, whose single samples follow from mean and count.
    """
    measured = np.asarray((part.samples > 1).all(axis=1), np.bool_)
    if 2 * measured.sum() < len(part.samples):
        return Luck(None, "each score is one run" if (part.samples == 1).all() else "too few scores are several runs")
    samples = part.samples[measured].astype(np.int64)
    exact = part.rewards[measured] * samples
    successes = exact.round().astype(np.int64)
    if np.abs(exact - successes).max() > _ROUNDING:
        return Luck(None, "the scores are not 0 or 1 in each run, and the table has their means only")
    generator = np.random.default_rng(seed)
    draws = [_halved(successes, samples, part.best, generator) for _ in range(_HALVINGS)]
    paid = np.mean(draws, axis=0)
    return Luck(paired_interval(paid.tolist(), [0.0] * len(paid)))


def _halved(successes: Ints, samples: Ints, best: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """The gain per question over the best single model, each half of the samples choosing for the other."""
    size = samples // 2
    first = generator.hypergeometric(successes, samples - successes, size)
    halves = (first / size, (successes - first) / (samples - size))
    rows = np.arange(len(samples))
    paid = [
        payer[rows, oracle_choice(chooser, best)] - payer[:, best]
        for chooser, payer in (halves, halves[::-1])
    ]  # fmt: skip
    return np.asarray(np.mean(paid, axis=0))
