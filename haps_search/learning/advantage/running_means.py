"""What each candidate earned in the steps so far: the baseline of a completion that nothing else is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.types import Assignment

DECAY = 0.95
"""What an episode still counts one step of its candidate later; so a mean is over about the last 20 such steps."""


@dataclass(frozen=True, slots=True)
class Earned:
    """Mean and standard deviation of utilities."""

    mean: float
    spread: float


class RunningMeans:
    """Per candidate the weighted count, sum and sum of squares of its episodes' utilities.

    A step reads them before it adds its own, so no completion is judged by its own reward. Part of a run's
    checkpoint: JSON-able.
    """

    def __init__(self, state: Mapping[str, Sequence[float]] | None = None) -> None:
        self._sums = {name: (count, total, squares) for name, (count, total, squares) in (state or {}).items()}

    def of(self, assignment: Assignment) -> Earned | None:
        """The mean over the seats of what their candidates earned; None where one of them never spoke."""
        if not all(name in self._sums for name in assignment):
            return None
        seats = [self._earned(name) for name in assignment]
        return Earned(fmean(s.mean for s in seats), fmean(s.spread for s in seats))

    def add(self, assignments: Sequence[Sequence[Assignment]], utilities: Sequence[Sequence[float]]) -> None:
        """The episodes (Q, G) of a step; one counts once for each candidate that took part."""
        of_candidate: dict[str, list[float]] = {}
        for zs, row in zip(assignments, utilities, strict=True):
            for z, utility in zip(zs, row, strict=True):
                for name in set(z):
                    of_candidate.setdefault(name, []).append(utility)
        for name, values in of_candidate.items():
            count, total, squares = self._sums.get(name, (0.0, 0.0, 0.0))
            self._sums[name] = (
                DECAY * count + len(values),
                DECAY * total + math.fsum(values),
                DECAY * squares + math.fsum(v * v for v in values),
            )

    def state(self) -> dict[str, list[float]]:
        return {name: list(sums) for name, sums in sorted(self._sums.items())}

    def _earned(self, name: str) -> Earned:
        count, total, squares = self._sums[name]
        mean = total / count
        return Earned(mean, math.sqrt(max(0.0, squares / count - mean * mean)))
