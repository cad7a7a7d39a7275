"""A user's own columns: wide (a row per question) and long (a row per question and model)."""

from __future__ import annotations

from dataclasses import dataclass

from haps_search.config.tables import LongLayout, WideLayout
from haps_search.tasks.tables import values
from haps_search.tasks.tables.entry import Cell, Entry
from haps_search.tasks.tables.rows import BadRow, Row
from haps_search.tasks.tables.values import Range


@dataclass(frozen=True)
class WideReader:
    """A score that a row lacks is a missing cell; a column that no row has is an error of the builder."""

    layout: WideLayout
    whole_rows: bool = True

    @property
    def required(self) -> tuple[str, ...]:
        named = (self.layout.id, self.layout.text, self.layout.task, self.layout.split)
        return (*(n for n in named if n is not None), *self.layout.scores.values(), *self.layout.costs.values())

    @property
    def optional(self) -> tuple[str, ...]:
        return ()

    def entry(self, row: Row, number: int, allowed: Range) -> Entry:
        layout = self.layout
        return Entry(
            id=str(number) if layout.id is None else values.identifier(row, layout.id),
            text=values.text(row, layout.text),
            task=values.named_label(row, layout.task) or "",
            split=values.named_label(row, layout.split),
            reference="",
            cells=tuple(self._cell(row, model, column, allowed) for model, column in layout.scores.items()),
        )

    def column(self, model: str) -> str:
        return self.layout.scores[model]

    def _cell(self, row: Row, model: str, column: str, allowed: Range) -> Cell:
        price = self.layout.costs.get(model)
        cost = None if price is None else values.cost(row.get(price), price)
        return Cell(model, values.score(row.get(column), column, allowed), cost)


@dataclass(frozen=True)
class LongReader:
    """A model's name is a value here, so the models are those that come."""

    layout: LongLayout
    whole_rows: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        layout = self.layout
        named = (layout.id, layout.text, layout.task, layout.split, layout.model, layout.score, layout.cost)
        return tuple(name for name in named if name is not None)

    @property
    def optional(self) -> tuple[str, ...]:
        return ()

    def entry(self, row: Row, number: int, allowed: Range) -> Entry:
        layout = self.layout
        model = values.named_label(row, layout.model)
        if model is None:
            raise BadRow(f"`{layout.model}`: got nothing, needs the name of a model")
        cost = None if layout.cost is None else values.cost(row.get(layout.cost), layout.cost)
        return Entry(
            id=values.identifier(row, layout.id),
            text=values.text(row, layout.text),
            task=values.named_label(row, layout.task) or "",
            split=values.named_label(row, layout.split),
            reference="",
            cells=(Cell(model, values.score(values.field(row, layout.score), layout.score, allowed), cost),),
        )

    def column(self, model: str) -> str:
        return self.layout.model
