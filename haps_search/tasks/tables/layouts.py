"""How each layout's rows are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haps_search.config.complaints import show
from haps_search.config.schema import suggest
from haps_search.config.tables import (
    Layout,
    LlmrouterLayout,
    LongLayout,
    NestedLayout,
    RouterbenchLayout,
    WideLayout,
)
from haps_search.errors import ConfigError, DataError
from haps_search.seeds import derive_seed
from haps_search.tasks.rows import BadRow
from haps_search.tasks.tables import cells
from haps_search.tasks.tables.cells import Cell, Entry, Reader, Row, Units


def reader_of(layout: Layout, path: Path) -> Reader:
    """The reader of a layout that is neither `auto` nor `collected`, for a file.

    Raises:
        ConfigError, DataError: a file of prices that cannot be read.
    """
    match layout:
        case LlmrouterLayout():
            return NestedReader(_NAMED, lenient=True, prices=find_prices(path, layout.prices))
        case RouterbenchLayout():
            return NestedReader(_NAMED.model_copy(update={"costs": "cost"}), lenient=True)
        case NestedLayout():
            return NestedReader(layout)
        case WideLayout():
            return WideReader(layout)
        case LongLayout():
            return LongReader(layout)
    raise AssertionError(f"layout {layout.type} has no reader")


_NAMED = NestedLayout(task="task", split="split", reference="ground_truth")
"""What LLMRouter's and RouterBench's rows are called here."""


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

    def entry(self, row: Row, number: int, units: Units) -> Entry:
        layout = self.layout
        return Entry(
            id=str(number) if layout.id is None else cells.identifier(row, layout.id),
            text=cells.text(row, layout.text, layout.listed),
            task=cells.named_label(row, layout.task) or "",
            split=cells.named_label(row, layout.split),
            reference="",
            cells=tuple(self._cell(row, model, column, units) for model, column in layout.scores.items()),
        )

    @property
    def numbered(self) -> bool:
        return self.layout.id is None

    def column(self, model: str) -> str:
        return self.layout.scores[model]

    def _cell(self, row: Row, model: str, column: str, units: Units) -> Cell:
        price = self.layout.costs.get(model)
        cost = None if price is None else units.cost(cells.optional(row, price), price)
        return Cell(model, units.score(cells.optional(row, column), column), cost)


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

    def entry(self, row: Row, number: int, units: Units) -> Entry:
        layout = self.layout
        model = cells.named_label(row, layout.model)
        if model is None:
            raise BadRow(f"`{layout.model}`: got nothing, needs the name of a model")
        cost = None if layout.cost is None else units.cost(cells.optional(row, layout.cost), layout.cost)
        text, task = cells.text(row, layout.text), cells.named_label(row, layout.task) or ""
        return Entry(
            id=f"{derive_seed(task, text):x}" if layout.id is None else cells.identifier(row, layout.id),
            text=text,
            task=task,
            split=cells.named_label(row, layout.split),
            reference="",
            cells=(Cell(model, units.score(cells.field(row, layout.score), layout.score), cost),),
        )

    @property
    def numbered(self) -> bool:
        return False

    def column(self, model: str) -> str:
        return self.layout.model


@dataclass(frozen=True)
class NestedReader:
    """`prices`, from model to cost, stand for the costs where rows have none; a `lenient` one does without task,
    split, reference and costs where they are not there."""

    layout: NestedLayout
    lenient: bool = False
    prices: Mapping[str, float] | None = None
    whole_rows: bool = True

    @property
    def required(self) -> tuple[str, ...]:
        layout = self.layout
        named = () if self.lenient else (layout.task, layout.split, layout.reference, layout.costs)
        return tuple(name for name in (layout.id, layout.text, layout.scores, *named) if name is not None)

    @property
    def optional(self) -> tuple[str, ...]:
        layout = self.layout
        named = (layout.task, layout.split, layout.reference, layout.costs)
        return tuple(name for name in named if name is not None) if self.lenient else ()

    def entry(self, row: Row, number: int, units: Units) -> Entry:
        layout = self.layout
        scores = _mapping(row, layout.scores)
        costs = _mapping(row, layout.costs) if layout.costs else {}
        scored = (
            Cell(model, units.score(value, f"{layout.scores}.{model}"), self._cost(model, costs, units))
            for model, value in scores.items()
        )
        reference = self._value(row, layout.reference)
        return Entry(
            id=str(number) if layout.id is None else cells.identifier(row, layout.id),
            text=cells.text(row, layout.text),
            task=cells.label(self._value(row, layout.task), str(layout.task)) or "",
            split=cells.label(self._value(row, layout.split), str(layout.split)),
            reference=reference if isinstance(reference, str) else "",
            cells=tuple(scored),
        )

    @property
    def numbered(self) -> bool:
        return self.layout.id is None

    def column(self, model: str) -> str:
        return f"{self.layout.scores}.{model}"

    def _value(self, row: Row, name: str | None) -> Any:
        if name is None:
            return None
        return cells.optional(row, name) if self.lenient else cells.field(row, name)

    def _cost(self, model: str, costs: Mapping[str, Any], units: Units) -> float | None:
        if self.prices is None:
            return units.cost(costs.get(model), f"{self.layout.costs}.{model}")
        if model not in self.prices:
            raise BadRow(
                f"`{self.column(model)}`: got a model without a price ({suggest(model, self.prices, 'priced')})"
            )
        return self.prices[model]


PRICES = "prices.json"
_PRICE_FIELDS = ("input_price", "output_price")


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
        prices = [Units().cost(cells.field(fields, name), name) for name in _PRICE_FIELDS]
    except BadRow as problem:
        raise DataError(f"{file}: {model}: {problem}") from problem
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        raise DataError(f"{file}: {model}: got no number for {' or '.join(_PRICE_FIELDS)}, needs both")
    return sum(known) / len(known)


def _mapping(row: Row, name: str) -> Mapping[str, Any]:
    value = cells.field(row, name)
    if not isinstance(value, dict):
        raise cells.refusal(name, value, "an object from model to number")
    return value
