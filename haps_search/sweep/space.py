"""Drawing a trial's parameters from a space, and laying them over the experiment. Knows no Optuna."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from haps_search.config.complaints import show, validate
from haps_search.config.conditions import Space, active, canonical, combinations, finite, ordered
from haps_search.config.distributions import Choice, Distribution, IntRange, LogRange
from haps_search.config.document import render
from haps_search.config.overrides import with_parameters
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError

Scalar = str | int | float | bool | None
_COUNTED = 100_000


class Trial(Protocol):
    """What draws values: the part of `optuna.trial.Trial` that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Any: ...


def apply(experiment: Experiment, parameters: Mapping[str, Any]) -> Experiment:
    """The experiment with dotted paths replaced, validated again.

    Choosing another `type` keeps the fields that both variants have.

    Raises:
        ConfigError: a path or value that the experiment refuses.
    """
    changed = with_parameters(experiment.model_dump(mode="json"), parameters)
    applied, problems = validate(Experiment, changed)
    if applied is None:
        values = ", ".join(f"{name}={show(value)}" for name, value in parameters.items())
        raise ConfigError([render(p, {}) for p in problems], f"trial with {values}")
    return applied


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of choices and integers over active parameters, each once, in a fixed order.

    Raises:
        ConfigError: a float range, which has no list of values.
    """
    endless = [name for name in space if finite(space[name]) is None]
    if endless:
        raise ConfigError(
            [f"{n}: a grid cannot enumerate {space[n].type}; list values with type: choice" for n in endless]
        )
    return combinations(space, lambda name: finite(space[name]) or ())


def suggest(space: Space, trial: Trial) -> dict[str, Any]:
    """Draw the active parameters, parents first; inactive ones are absent."""
    chosen: dict[str, Any] = {}
    for name in ordered(space):
        if active(name, space, chosen):
            chosen[name] = _draw(name, space[name], trial)
    return chosen


def describe(space: Space) -> list[str]:
    """A line per parameter, and the number of grid points where that is finite."""
    lines = [f"{name}: {_range(space[name])}{_when(space[name])}" for name in ordered(space)]
    if space and all(finite(d) is not None for d in space.values()):
        points = sum(1 for _ in islice(grid(space), _COUNTED))
        lines.append(f"{points} grid points" if points < _COUNTED else f"{_COUNTED} grid points or more")
    return lines


def _draw(name: str, distribution: Distribution, trial: Trial) -> Any:
    if isinstance(distribution, Choice):
        choices = encoded(distribution.values)
        drawn = trial.suggest_categorical(name, list(choices))
        return json.loads(drawn) if choices is not distribution.values else drawn
    if isinstance(distribution, IntRange):
        return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    log = isinstance(distribution, LogRange)
    return trial.suggest_float(name, distribution.low, distribution.high, log=log)


def encoded(values: tuple[Any, ...]) -> tuple[Scalar, ...]:
    """Values as they are where all are scalars that `==` tells apart (1 == True), else each as JSON."""
    plain = all(isinstance(v, Scalar) for v in values)
    if plain and len(set(values)) == len({canonical(v) for v in values}):
        return values
    return tuple(canonical(v) for v in values)


def _range(distribution: Distribution) -> str:
    if isinstance(distribution, Choice):
        return f"one of {', '.join(show(v) for v in distribution.values)}"
    text = f"{distribution.type} from {show(distribution.low)} to {show(distribution.high)}"
    if isinstance(distribution, IntRange) and distribution.step > 1:
        return f"{text} in steps of {distribution.step}"
    return text


def _when(distribution: Distribution) -> str:
    if not distribution.when:
        return ""
    return " when " + " and ".join(f"{name} is {show(value)}" for name, value in distribution.when.items())
