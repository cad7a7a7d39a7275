"""Which parameters of a space are active together, in what order, and with which values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from haps_search.config.distributions import Choice, Distribution, IntRange

Space = Mapping[str, Distribution]


def same(one: Any, other: Any) -> bool:
    """Equality of YAML values; 1 and true are two values here."""
    return canonical(one) == canonical(other)


def canonical(value: Any) -> str:
    """A value as JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def finite(distribution: Distribution) -> tuple[Any, ...] | range | None:
    """All values of a choice or an integer range; None for floats."""
    if isinstance(distribution, Choice):
        return distribution.values
    if isinstance(distribution, IntRange):
        return range(distribution.low, distribution.high + 1, distribution.step)
    return None


def wanted(value: Any, parent: Distribution) -> Sequence[Any]:
    """The parent's values a `when` entry names; a list means any of them, unless it is a value itself."""
    values = finite(parent)
    is_value = values is not None and any(same(value, v) for v in values)
    return value if isinstance(value, list) and not is_value else [value]


def reachable(value: Any, parent: Distribution) -> bool:
    """Whether a parent can take a value."""
    values = finite(parent)
    if isinstance(values, range):
        return isinstance(value, int) and not isinstance(value, bool) and value in values
    return values is not None and any(same(value, v) for v in values)


def active(name: str, space: Space, chosen: Mapping[str, Any]) -> bool:
    """Whether a parameter counts, given the values of its parents; an absent parent was inactive."""
    return all(
        parent in chosen and any(same(chosen[parent], v) for v in wanted(value, space[parent]))
        for parent, value in space[name].when.items()
    )


def cycle(space: Space) -> list[str]:
    """Parameters that wait for each other; none in a sound space."""
    placed = _placed(space)
    return [name for name in space if name not in placed]


def ordered(space: Space) -> list[str]:
    """Names with parents before children, else as written. Needs a space without cycles."""
    return _placed(space)


def _placed(space: Space) -> list[str]:
    placed: list[str] = []
    ready = True
    while ready:
        ready = False
        for name in space:
            if name not in placed and all(p in placed or p not in space for p in space[name].when):
                placed.append(name)
                ready = True
    return placed


def combinations(space: Space, values: Callable[[str], Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination over active parameters, each once, in the order of `ordered`."""
    yield from _extend(space, values, ordered(space), {})


def _extend(
    space: Space, values: Callable[[str], Sequence[Any]], names: Sequence[str], chosen: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not names:
        yield dict(chosen)
        return
    name, rest = names[0], names[1:]
    if not active(name, space, chosen):
        yield from _extend(space, values, rest, chosen)
        return
    for value in values(name):
        yield from _extend(space, values, rest, {**chosen, name: value})
