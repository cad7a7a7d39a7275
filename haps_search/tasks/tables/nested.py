"""LLMRouter's and RouterBench's layouts: one object per question, with mappings from model to score and cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haps_search.config.explain import show
from haps_search.config.schema import suggest
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.tables import values
from haps_search.tasks.tables.entry import Cell, Entry
from haps_search.tasks.tables.rows import BadRow, Row
from haps_search.tasks.tables.values import Range

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
        cells = (
            Cell(model, values.score(value, f"scores.{model}", allowed), self._cost(model, costs))
            for model, value in scores.items()
        )
        reference = row.get("ground_truth")
        return Entry(
            id=values.identifier(row, "id"),
            text=values.text(row, "query"),
            task=values.label(row.get("task"), "task") or "",
            split=values.label(row.get("split"), "split"),
            reference=reference if isinstance(reference, str) else "",
            cells=tuple(cells),
        )

    def column(self, model: str) -> str:
        return f"scores.{model}"

    def _cost(self, model: str, costs: Mapping[str, Any]) -> float | None:
        if self.prices is None:
            return values.cost(costs.get(model), f"{self.cost}.{model}")
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
        prices = [values.cost(values.field(fields, name), name) for name in _PRICE_FIELDS]
    except BadRow as problem:
        raise DataError(f"{file}: {model}: {problem}") from problem
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        raise DataError(f"{file}: {model}: got no number for {' or '.join(_PRICE_FIELDS)}, needs both")
    return sum(known) / len(known)


def _mapping(row: Row, name: str) -> Mapping[str, Any]:
    value = values.field(row, name)
    if not isinstance(value, dict):
        raise BadRow(f"`{name}`: got {show(value)}, needs an object from model to number")
    return value
