"""Which layout a file has, by the names in its first row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haps_search.config.complaints import show
from haps_search.config.schema import suggest
from haps_search.config.tables import (
    CollectedLayout,
    Layout,
    LlmrouterLayout,
    LongLayout,
    RouterbenchLayout,
    WideLayout,
)
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.tables import cells
from haps_search.tasks.tables.cells import Cell, Entry, Range
from haps_search.tasks.tables.rows import BadRow, Row, open_rows, place

_NESTED = {"query", "scores"}
_LONG = {"id", "text", "model", "score"}
_COLLECTED = {"question", "assignment", "sample", "reward"}
_MOST_NAMES = 20


def recognise(path: Path) -> Layout:
    """The layout of a table that does not say.

    Raises:
        ConfigError: none that is known; the message lists the columns and the way out.
        DataError: no row, or a first row that cannot be read.
    """
    rows = open_rows(path)
    number, first = next(rows.stream, (0, None))
    if first is None:
        raise DataError(f"{path}: got 0 rows, needs one for each question at least")
    if isinstance(first, BadRow):
        raise DataError(f"{place(path, number)}: {first}")
    columns = list(first)
    if set(columns) >= _COLLECTED:
        return CollectedLayout()
    if set(columns) >= _NESTED:
        return RouterbenchLayout() if "cost" in columns else LlmrouterLayout()
    if set(columns) >= _LONG:
        task, split, cost = (name if name in columns else None for name in ("task", "split", "cost"))
        return LongLayout(task=task, split=split, cost=cost)
    raise ConfigError(_unknown(columns), str(path))


def _unknown(columns: list[str]) -> str:
    shown = ", ".join(columns[:_MOST_NAMES])
    more = f" and {len(columns) - _MOST_NAMES} more" if len(columns) > _MOST_NAMES else ""
    return (
        f"layout: cannot be told from the columns {shown}{more}; say which ones hold the question and the scores, "
        "in a YAML with `layout: {type: wide, id: ..., text: ..., scores: {MODEL: COLUMN, ...}}` "
        "or `{type: long, id: ..., text: ..., model: ..., score: ...}`"
    )


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
            id=str(number) if layout.id is None else cells.identifier(row, layout.id),
            text=cells.text(row, layout.text),
            task=cells.named_label(row, layout.task) or "",
            split=cells.named_label(row, layout.split),
            reference="",
            cells=tuple(self._cell(row, model, column, allowed) for model, column in layout.scores.items()),
        )

    def column(self, model: str) -> str:
        return self.layout.scores[model]

    def _cell(self, row: Row, model: str, column: str, allowed: Range) -> Cell:
        price = self.layout.costs.get(model)
        cost = None if price is None else cells.cost(row.get(price), price)
        return Cell(model, cells.score(row.get(column), column, allowed), cost)


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
        model = cells.named_label(row, layout.model)
        if model is None:
            raise BadRow(f"`{layout.model}`: got nothing, needs the name of a model")
        cost = None if layout.cost is None else cells.cost(row.get(layout.cost), layout.cost)
        return Entry(
            id=cells.identifier(row, layout.id),
            text=cells.text(row, layout.text),
            task=cells.named_label(row, layout.task) or "",
            split=cells.named_label(row, layout.split),
            reference="",
            cells=(Cell(model, cells.score(cells.field(row, layout.score), layout.score, allowed), cost),),
        )

    def column(self, model: str) -> str:
        return self.layout.model


PRICES = "prices.json"
_PRICE_FIELDS = ("input_price", "output_price")


@dataclass(frozen=True)
class NestedReader:
    """`cost` is the field of each row's costs; `prices`, from model to cost, stand for it where rows have none."""

    cost: str | None = None
    prices: Mapping[str, float] | None = None
    required: tuple[str, ...] = ("id", "query", "scores")
    whole_rows: bool = True

    @property
    def optional(self) -> tuple[str, ...]:
        return ("task", "split", "ground_truth", *([self.cost] if self.cost else []))

    def entry(self, row: Row, number: int, allowed: Range) -> Entry:
        scores = _mapping(row, "scores")
        costs = _mapping(row, self.cost) if self.cost else {}
        scored = (
            Cell(model, cells.score(value, f"scores.{model}", allowed), self._cost(model, costs))
            for model, value in scores.items()
        )
        reference = row.get("ground_truth")
        return Entry(
            id=cells.identifier(row, "id"),
            text=cells.text(row, "query"),
            task=cells.label(row.get("task"), "task") or "",
            split=cells.label(row.get("split"), "split"),
            reference=reference if isinstance(reference, str) else "",
            cells=tuple(scored),
        )

    def column(self, model: str) -> str:
        return f"scores.{model}"

    def _cost(self, model: str, costs: Mapping[str, Any]) -> float | None:
        if self.prices is None:
            return cells.cost(costs.get(model), f"{self.cost}.{model}")
        if model not in self.prices:
            raise BadRow(f"`scores.{model}`: got a model without a price ({suggest(model, self.prices, 'priced')})")
        return self.prices[model]


def find_prices(table: Path, named: str | None) -> dict[str, float] | None:
    """Cost per model of `named`, or of a `prices.json` beside the table; None where there is neither.

    Raises:
        ConfigError: the named file cannot be read.
        DataError: not a mapping from model to its two prices.
    """
    file = Path(named) if named is not None else table.with_name(PRICES)
    if named is None and not file.is_file():
        return None
    try:
        prices = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"layout.prices: cannot read `{file}` ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{file}: bad JSON ({error})") from error
    if not isinstance(prices, dict):
        raise DataError(f"{file}: got {show(prices)}, needs an object from model to its prices")
    return {model: _price(file, model, fields) for model, fields in prices.items()}


def _price(file: Path, model: str, fields: Any) -> float:
    try:
        if not isinstance(fields, dict):
            raise BadRow(f"got {show(fields)}, needs an object with {' and '.join(_PRICE_FIELDS)}")
        prices = [cells.cost(cells.field(fields, name), name) for name in _PRICE_FIELDS]
    except BadRow as problem:
        raise DataError(f"{file}: {model}: {problem}") from problem
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        raise DataError(f"{file}: {model}: got no number for {' or '.join(_PRICE_FIELDS)}, needs both")
    return sum(known) / len(known)


def _mapping(row: Row, name: str) -> Mapping[str, Any]:
    value = cells.field(row, name)
    if not isinstance(value, dict):
        raise BadRow(f"`{name}`: got {show(value)}, needs an object from model to number")
    return value
