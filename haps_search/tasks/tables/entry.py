"""What a row says, whatever its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from haps_search.tasks.tables.rows import Row
from haps_search.tasks.tables.values import Range


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
