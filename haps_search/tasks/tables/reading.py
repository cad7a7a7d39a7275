"""From a file and its description to an outcome table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from haps_search.config.tables import (
    AutoLayout,
    CollectedLayout,
    Layout,
    LlmrouterLayout,
    LongLayout,
    RouterbenchLayout,
    TableConfig,
    WideLayout,
)
from haps_search.errors import DataError
from haps_search.tasks.outcomes import OutcomeTable, read_collected
from haps_search.tasks.tables import cells
from haps_search.tasks.tables.builder import TableBuilder, checked
from haps_search.tasks.tables.cells import Reader
from haps_search.tasks.tables.layouts import LongReader, NestedReader, WideReader, find_prices, recognise
from haps_search.tasks.tables.rows import BadRow, Rows, open_rows, place

MOST_PROBLEMS = 10
PER_QUESTION = "per question, in the table's money"
PER_TOKEN = "per million tokens, the mean of a model's two prices; the table counts no tokens"


@dataclass(frozen=True)
class LoadedTable:
    """A table, the layout it was read by, what its costs are, and what its policies met: questions dropped, rows with
    a repeated id."""

    table: OutcomeTable
    layout: str
    cost_unit: str
    dropped: int
    repeated: int


def read_table(source: TableConfig | str | Path) -> OutcomeTable:
    """The outcome table of a file, by its description or (a bare path) by the defaults of one.

    Raises:
        ConfigError: no such file, or a layout that cannot be told.
        DataError: malformed rows (up to ten, each with file, line and column), no rows, fewer than two models.
    """
    config = source if isinstance(source, TableConfig) else TableConfig(file=str(source))
    return load_outcomes(config).table


def load_outcomes(config: TableConfig) -> LoadedTable:
    """`read_table`, with what was counted on the way. Raises as it does."""
    path = Path(config.file)
    layout = recognise(path) if isinstance(config.layout, AutoLayout) else config.layout
    if isinstance(layout, CollectedLayout):
        table, dropped = checked(read_collected(path), config.missing, lambda q, name: str(path))
        return LoadedTable(table, layout.type, PER_QUESTION, dropped, 0)
    reader = _reader(layout, path)
    builder = _gather(path, reader, config)
    table, lines = builder.build(), builder.lines
    _refuse_empty(table, reader, path)
    table, dropped = checked(
        table, config.missing, lambda q, model: f"{place(path, lines[q])}: `{reader.column(model)}`"
    )
    unit = PER_TOKEN if isinstance(layout, LlmrouterLayout) else PER_QUESTION
    return LoadedTable(table, layout.type, unit, dropped, builder.repeated)


def _reader(layout: Layout, path: Path) -> Reader:
    match layout:
        case LlmrouterLayout():
            return NestedReader(prices=find_prices(path, layout.prices))
        case RouterbenchLayout():
            return NestedReader(cost="cost")
        case WideLayout():
            return WideReader(layout)
        case LongLayout():
            return LongReader(layout)
    raise AssertionError(f"layout {layout.type} has no reader")


def _gather(path: Path, reader: Reader, config: TableConfig) -> TableBuilder:
    builder = TableBuilder(config.duplicate_ids, reader.whole_rows)
    rows = open_rows(path, (*reader.required, *reader.optional))
    _refuse_absent(rows, reader, path)
    problems: list[str] = []
    for number, row in rows.stream:
        try:
            if isinstance(row, BadRow):
                raise row
            builder.add(reader.entry(row, number, config.score_range), number)
        except BadRow as problem:
            problems.append(f"{place(path, number)}: {problem}")
            if len(problems) == MOST_PROBLEMS:
                break
    _raise_for(problems)
    return builder


def _refuse_absent(rows: Rows, reader: Reader, path: Path) -> None:
    """Where a file lists its columns, a name that is not there is told before the first row is read."""
    if rows.columns is None:
        return
    absent = [name for name in reader.required if name not in rows.columns]
    _raise_for([f"{path}: {cells.no_column(name, rows.columns)}" for name in absent[:MOST_PROBLEMS]])


def _refuse_empty(table: OutcomeTable, reader: Reader, path: Path) -> None:
    """A column that no row of a JSONL has is a misspelt name rather than a model that never answered."""
    if not table.questions:
        raise DataError(f"{path}: got 0 rows, needs one for each question at least")
    empty = [z[0] for c, z in enumerate(table.assignments) if not table.samples[:, c].any()]
    _raise_for([f"{path}: `{reader.column(model)}`: got no score of {model} in any row" for model in empty])


def _raise_for(problems: list[str]) -> None:
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        more = ", and perhaps more" if len(problems) == MOST_PROBLEMS else ""
        raise DataError("\n  - ".join([f"{len(problems)} problems{more}", *problems]))


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
