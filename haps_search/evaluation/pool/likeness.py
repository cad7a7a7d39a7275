"""How alike the models' successes are: a pool of models that fail together gives a router nothing to choose."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, paired_interval
from haps_search.evaluation.pool.gains import Complete, oracle_choice


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models and the correlation of their rewards."""

    one: str
    other: str
    correlation: float


@dataclass(frozen=True, slots=True)
class Likeness:
    """Pearson's correlation of rewards over questions (phi, where rewards are 0 or 1).

    `matrix[a][b]`, NaN beside a model that earns the same everywhere; `mean` is over the pairs that have one, NaN
    where none has. `identical` pairs earn the same on every question.
    """

    matrix: tuple[tuple[float, ...], ...]
    mean: float
    most: Pair | None
    least: Pair | None
    identical: tuple[tuple[str, str], ...]


def likeness(part: Complete) -> Likeness:
    """Compare the models pair by pair."""
    rewards, names = part.rewards, part.names
    centred = rewards - rewards.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    spread[np.ptp(rewards, axis=0) == 0] = np.nan
    matrix = np.clip(centred.T @ centred / np.outer(spread, spread), -1, 1)
    couples = list(combinations(range(len(names)), 2))
    pairs = [Pair(names[a], names[b], float(matrix[a, b])) for a, b in couples if np.isfinite(matrix[a, b])]
    ordered = sorted(pairs, key=lambda pair: pair.correlation)
    return Likeness(
        matrix=tuple(tuple(float(v) for v in row) for row in matrix),
        mean=float(np.mean([p.correlation for p in pairs])) if pairs else float("nan"),
        most=ordered[-1] if pairs else None,
        least=ordered[0] if pairs else None,
        identical=tuple((names[a], names[b]) for a, b in couples if (rewards[:, a] == rewards[:, b]).all()),
    )


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
