"""Single values of a row: what was got, what is needed, and the nearest name where a column is not there."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from haps_search.config.complaints import show
from haps_search.config.schema import suggest
from haps_search.tasks.tables.rows import BadRow, Row

Range = tuple[float, float]
_MOST_NAMES = 12
_TRUTH = {"true": 1.0, "false": 0.0}


def field(row: Row, name: str) -> Any:
    """A column that every row must have. Raises BadRow with the nearest name."""
    if name not in row:
        raise BadRow(no_column(name, row))
    return row[name]


def no_column(name: str, known: Iterable[str]) -> str:
    """What to say where a column is not there."""
    names = list(known)
    hint = suggest(name, names, "the table has")
    if not hint.startswith("did you mean") and len(names) > _MOST_NAMES:
        hint = f"the table has: {', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
    return f"`{name}`: got no such column ({hint}), needs it or another name under `layout`"


def text(row: Row, name: str) -> str:
    """Text that is not empty. Raises BadRow."""
    value = field(row, name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"`{name}`: got {show(value)}, needs text that is not empty")
    return value


def identifier(row: Row, name: str) -> str:
    """Text or a whole number. Raises BadRow."""
    value = field(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"`{name}`: got {show(value)}, needs text or a whole number")
    return str(value)


def label(value: Any, name: str) -> str | None:
    """The name of a task, split or model; None where it is null or empty. Raises BadRow."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"`{name}`: got {show(value)}, needs text")
    return sys.intern(str(value))  # a few names stand in many rows


def named_label(row: Row, name: str | None) -> str | None:
    """The label in a column that the user named, so that it must be there; None where none was named."""
    return None if name is None else label(field(row, name), name)


def score(value: Any, name: str, allowed: Range) -> float | None:
    """A score rescaled from the declared range to [0, 1]; None where it is null, empty or NaN. Raises BadRow."""
    number = _number(value, name)
    if number is None:
        return None
    low, high = allowed
    if not low <= number <= high:
        declared = f"a score in [{low:g}, {high:g}], or `score_range: [lowest, highest]` that holds it"
        raise BadRow(f"`{name}`: got {number:g}, needs {declared}")
    return (number - low) / (high - low)


def cost(value: Any, name: str) -> float | None:
    """A cost of 0 or more; None where it is null, empty or NaN. Raises BadRow."""
    number = _number(value, name)
    if number is not None and not 0 <= number < math.inf:
        raise BadRow(f"`{name}`: got {number:g}, needs a cost of 0 or more")
    return number


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = _TRUTH.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BadRow(f"`{name}`: got {show(value)}, needs a number") from error
    return None if math.isnan(number) else number


class Cell(NamedTuple):
    """What a model earned on a question. `score` is in [0, 1], None where the table has none; so is `cost`."""

    model: str
    score: float | None
    cost: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A question, or a part of its cells. Made by a layout, read by the builder."""

    id: str
    text: str
    task: str
    split: str | None
    reference: str
    cells: tuple[Cell, ...]


class Reader(Protocol):
    """One layout. `required` columns must be there; `optional` ones are read where they are."""

    @property
    def required(self) -> tuple[str, ...]: ...

    @property
    def optional(self) -> tuple[str, ...]: ...

    @property
    def whole_rows(self) -> bool:
        """Whether a row is a whole question, so that an id may come once only."""
        ...

    def entry(self, row: Row, number: int, allowed: Range) -> Entry:
        """Read one row; scores must be in the range `allowed`. Raises BadRow."""
        ...

    def column(self, model: str) -> str:
        """The column a model's scores stand in, for messages."""
        ...
