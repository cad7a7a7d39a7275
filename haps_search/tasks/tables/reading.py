"""From files and their description to an outcome table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haps_search.config.tables import AutoLayout, CollectedLayout, Layout, LlmrouterLayout, TableConfig, TablePart
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.outcomes import OutcomeTable, read_collected
from haps_search.tasks.paths import root
from haps_search.tasks.rows import BadRow, Rows, at, objects, open_rows
from haps_search.tasks.tables import cells
from haps_search.tasks.tables.builder import TableBuilder, checked
from haps_search.tasks.tables.cells import Entry, Reader, Tally, Units, Unread
from haps_search.tasks.tables.layouts import reader_of
from haps_search.tasks.tables.recognising import recognise
from haps_search.tasks.tables.splits import Digests, digests

MOST_PROBLEMS = 10
PER_QUESTION = "per question, in the table's money"
PER_TOKEN = "per million tokens, the mean of a model's two prices; the table counts no tokens"


@dataclass(frozen=True)
class LoadedTable:
    """A table, the layout it was read by, what its costs are, and what its policies met: questions dropped, rows with
    a repeated id, and what could not be read."""

    table: OutcomeTable
    layout: str
    cost_unit: str
    dropped: int
    repeated: int
    unread: tuple[Unread, ...] = ()


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
    layouts = _layouts(config)
    if isinstance(layouts[0], CollectedLayout):
        return _collected(config)
    return _Gathered(config, layouts, tally=None, texts=True).loaded()[0]


def survey(config: TableConfig) -> tuple[LoadedTable, Digests]:
    """The table without its texts (those of its questions are empty) and what is compared of them instead.

    Rows and cells that cannot be read are left out and counted, in `unread`.

    Raises:
        ConfigError: no such file, or a layout that cannot be told.
        DataError: no row that can be read, or fewer than two models.
    """
    layouts = _layouts(config)
    if isinstance(layouts[0], CollectedLayout):
        loaded = _collected(config)
        return loaded, digests([question.text for question in loaded.table.questions])
    gathered = _Gathered(config, layouts, tally=Tally(), texts=False)
    loaded, kept = gathered.loaded()
    return loaded, gathered.builder.digests().take(np.flatnonzero(kept))


def _collected(config: TableConfig) -> LoadedTable:
    if config.parts:
        raise ConfigError("parts: got files of `haps collect`, needs one of them as `file`: merge them first")
    path = Path(config.file)
    table, kept = checked(read_collected(path), config.missing, lambda q, name: str(path))
    return LoadedTable(table, CollectedLayout().type, PER_QUESTION, int((~kept).sum()), 0)


def _layouts(config: TableConfig) -> list[Layout]:
    """The layout of each file."""
    if not isinstance(config.layout, AutoLayout):
        return [config.layout] * len(config.files)
    return [recognise(Path(part.file)) for part in config.files]


class _Gathered:
    """All rows of a table's files in one builder."""

    def __init__(self, config: TableConfig, layouts: Sequence[Layout], tally: Tally | None, texts: bool) -> None:
        self._config, self._layouts, self._tally = config, layouts, tally
        described = zip(layouts, config.files, strict=True)
        self._readers = [reader_of(layout, Path(part.file)) for layout, part in described]
        if len({reader.whole_rows for reader in self._readers}) > 1:
            raise ConfigError("parts: some have a row per question and some a row per model, needs one kind")
        self.builder = TableBuilder(config.duplicate_ids, self._readers[0].whole_rows, texts)
        for part, reader in zip(config.files, self._readers, strict=True):
            self._read(part, reader)

    def loaded(self) -> tuple[LoadedTable, NDArray[np.bool_]]:
        """The table under its policies, and which questions they keep. Raises DataError."""
        builder, config = self.builder, self._config
        table = builder.build()
        self._refuse_empty(table)

        def place(question: int, model: str) -> str:
            return f"{builder.where(question)}: `{self._readers[builder.part(question)].column(model)}`"

        table, kept = checked(table, config.missing, place)
        unit = PER_TOKEN if isinstance(self._layouts[0], LlmrouterLayout) else PER_QUESTION
        unread = () if self._tally is None else self._tally.unread()
        dropped = int((~kept).sum())
        return LoadedTable(table, self._layouts[0].type, unit, dropped, builder.repeated, unread), kept

    def _read(self, part: TablePart, reader: Reader) -> None:
        rows = open_rows(Path(part.file), (*reader.required, *reader.optional))
        self.builder.begin(rows.where)
        _refuse_absent(rows, reader)
        units = _units(self._config, part, self._tally)
        problems: list[str] = []
        for row, value in objects(rows):
            place = at(rows.name, row.place)
            if self._tally is not None:
                self._tally.place = place
            try:
                if isinstance(value, BadRow):
                    raise value
                entry = reader.entry(value, row.number, units)
                entry = _of_part(entry, part, reader.numbered) if self._config.parts else entry
                self.builder.add(entry, row.number)
            except BadRow as problem:
                if self._tally is not None:
                    self._tally.note(problem)
                    continue
                problems.append(f"{place}: {problem}")
                if len(problems) == MOST_PROBLEMS:
                    break
        raise_for(problems)

    def _refuse_empty(self, table: OutcomeTable) -> None:
        """A column that no row of a JSONL has is a misspelt name rather than a model that never answered."""
        name = self._config.name
        if not table.questions:
            unread = () if self._tally is None else self._tally.unread()
            said = f" that can be read ({unread[0].count} cannot: {unread[0].first})" if unread else ""
            raise DataError(f"{name}: got 0 rows{said}, needs one for each question at least")
        empty = [z[0] for c, z in enumerate(table.assignments) if not table.samples[:, c].any()]
        column = self._readers[0].column
        raise_for([f"{name}: `{column(model)}`: got no score of {model} in any row" for model in empty])


def _units(config: TableConfig, part: TablePart, tally: Tally | None) -> Units:
    above = config.correct_above if part.correct_above is None else part.correct_above
    return Units(*config.score_range, config.currency, above, tally)


def _of_part(entry: Entry, part: TablePart, numbered: bool) -> Entry:
    """Task and split of the part where no column says them; ids that are row numbers are told apart by the file."""
    return replace(
        entry,
        id=f"{Path(part.file).name}:{entry.id}" if numbered else entry.id,
        task=entry.task or part.task or "",
        split=entry.split or part.split,
    )


def _refuse_absent(rows: Rows, reader: Reader) -> None:
    """Where a file lists its columns, a name that is not there is told before the first row is read."""
    columns = rows.columns
    if columns is None:
        return
    absent = [name for name in reader.required if root(name, columns) is None]
    raise_for([f"{rows.name}: {cells.no_column(name, columns)}" for name in absent[:MOST_PROBLEMS]])


def raise_for(problems: list[str]) -> None:
    """Raise DataError with all problems, or do nothing where there is none."""
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
