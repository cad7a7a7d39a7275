"""Tables that this process has at hand: each description is read once, or handed over by whoever has read it."""

from __future__ import annotations

from haps_search.config.tables import TableConfig
from haps_search.tasks.outcome_table import OutcomeTable
from haps_search.tasks.tables.read import read_table

_held: dict[str, OutcomeTable] = {}


def held(config: TableConfig) -> OutcomeTable:
    """The table of a description; its file is read the first time it is asked for. Raises as `read_table` does."""
    key = config.model_dump_json()
    if key not in _held:
        _held[key] = read_table(config)
    return _held[key]


def hold(config: TableConfig, table: OutcomeTable) -> None:
    """Take a table that was read elsewhere under this very description, so that its file need not be here."""
    _held[config.model_dump_json()] = table
