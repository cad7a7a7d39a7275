"""Interleaved timing, and ratios with their medians and quartiles."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Variant = Callable[[int], object]
"""What is timed, called with the number of the round, so that no prompt comes twice; in round 0 it may do less."""


def interleaved(variants: Mapping[str, Variant], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round, one after the other within a round; round 0 warms up, uncounted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            began = time.perf_counter()
            variant(number)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach on two CPU cores."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def reached_by(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: what is compared, and its value in each round. `target` None: stated only."""

    name: str
    what: str
    rounds: tuple[float, ...]
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third; a single round has no spread."""
        if len(self.rounds) == 1:
            return self.rounds[0], self.rounds[0]
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return low, high

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached_by(self.median)

    def to_json(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {
            "name": self.name,
            "what": self.what,
            "median": self.median,
            "quartiles": [low, high],
            "rounds": list(self.rounds),
            "to_reach": None if self.target is None else str(self.target),
            "reached": self.reached,
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark found: figures, the seconds behind them by variant and round, and its settings."""

    figures: tuple[Figure, ...]
    seconds: Mapping[str, Sequence[float]]
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        seconds = {name: list(values) for name, values in self.seconds.items()}
        return {"figures": [f.to_json() for f in self.figures], "seconds": seconds, "settings": dict(self.settings)}


def ratios(top: Sequence[float], bottom: Sequence[float], factor: float = 1.0) -> tuple[float, ...]:
    """Each round's own ratio, times `factor`."""
    return tuple(factor * a / b for a, b in zip(top, bottom, strict=True))


def exponents(sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Per round the e of seconds ~ size^e, by least squares over logarithms; `seconds` is (sizes, rounds)."""
    logs = [math.log(size) for size in sizes]
    return tuple(
        statistics.linear_regression(logs, [math.log(s) for s in of_round]).slope
        for of_round in zip(*seconds, strict=True)
    )
