"""What a report is made of. Sections compute these; `page` and `write` put them on disk."""

from __future__ import annotations

from dataclasses import dataclass

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Named rows of cells; becomes NAME.csv. None is an empty cell."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column: whether no cell is a text."""
        return tuple(not any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns)))


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a figure's legend: `colour` is a name of `draw.colours.THEME`, `mark` how it is drawn."""

    label: str
    colour: str
    mark: str = "line"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and the values it shows; `description` says in words what can be seen."""

    data: Table
    description: str
    svg: str
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. `missing` says why there is nothing to show, empty where there is."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All of the page: facts as (term, value), the verdict in sentences, the sections in reading order."""

    title: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table and every figure's data, in reading order."""
        return tuple(t for s in self.sections for t in (*s.tables, *(f.data for f in s.figures)))

    @property
    def missing(self) -> tuple[str, ...]:
        """What the page cannot show, a line each."""
        return tuple(f"{s.title}: {s.missing}" for s in self.sections if s.missing)


def number(value: float | None, digits: int = 3) -> str:
    """A value for prose; a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"
