"""How alike the models' successes are: a pool of models that fail together gives a router nothing to choose."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from haps_search.evaluation.pool_report.complete import Complete


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
