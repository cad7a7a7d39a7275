"""Single values of a row: what was got, what is needed, and the nearest name where a column is not there."""

from __future__ import annotations

import ast
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any, NamedTuple, Protocol

from haps_search.config.complaints import show
from haps_search.config.schema import suggest
from haps_search.tasks.paths import NoField, value_at
from haps_search.tasks.rows import BadRow

Row = Mapping[str, Any]
_MOST_NAMES = 12
_TRUTH = {"true": 1.0, "false": 0.0}
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")


def refusal(name: str, value: Any, needs: str) -> BadRow:
    """A column's value that cannot be taken."""
    return BadRow(f"`{name}`: got {show(value)}, needs {needs}", f"`{name}`: needs {needs}")


def field(row: Row, name: str) -> Any:
    """A column, or a path below one, that every row must have. Raises BadRow with the nearest name."""
    try:
        return value_at(row, name)
    except NoField as missing:
        raise BadRow(no_column(name, missing.known or row), f"`{name}`: no such column") from missing


def optional(row: Row, name: str) -> Any:
    """A column or path that a row may lack: None then."""
    try:
        return value_at(row, name)
    except NoField:
        return None


def no_column(name: str, known: Iterable[str]) -> str:
    """What to say where a column is not there."""
    names = list(known)
    hint = suggest(name, names, "the table has")
    if not hint.startswith("did you mean") and len(names) > _MOST_NAMES:
        hint = f"the table has: {', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
    return f"`{name}`: got no such column ({hint}), needs it or another name under `layout`"


def text(row: Row, name: str, listed: bool = False) -> str:
    """Text that is not empty; of a list of texts, its items with a blank line between them.

    `listed`: the column holds lists written as Python writes them, `['...']`. Raises BadRow.
    """
    value = field(row, name)
    if listed and isinstance(value, str):
        value = _python_list(value, name)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        value = "\n\n".join(value)
    if not isinstance(value, str) or not value.strip():
        raise refusal(name, value, "text that is not empty")
    return value


def _python_list(value: str, name: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise refusal(name, value, "a list of texts as Python writes it, or `listed: false`") from error


def identifier(row: Row, name: str) -> str:
    """Text or a whole number. Raises BadRow."""
    value = field(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise refusal(name, value, "text or a whole number")
    return str(value)


def label(value: Any, name: str) -> str | None:
    """The name of a task, split or model; None where it is null or empty. Raises BadRow."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise refusal(name, value, "text")
    return sys.intern(str(value))  # a few names stand in many rows


def named_label(row: Row, name: str | None) -> str | None:
    """The label in a column that the user named, so that it must be there; None where none was named."""
    return None if name is None else label(field(row, name), name)


class Tally:
    """What could not be read: how often each sort of problem came, and the first of it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self.place = ""
        """Where the row stands that is being read."""

    def note(self, problem: BadRow) -> None:
        self._counts[problem.kind] += 1
        self._first.setdefault(problem.kind, f"{self.place}: {problem}")

    def unread(self) -> tuple[Unread, ...]:
        """The sorts of problems, the most frequent first."""
        return tuple(Unread(kind, count, self._first[kind]) for kind, count in self._counts.most_common())


@dataclass(frozen=True, slots=True)
class Unread:
    """`count` cells or rows with a problem of one sort; `first` is the first of them, with its place."""

    kind: str
    count: int
    first: str


@dataclass(frozen=True, slots=True)
class Units:
    """How numbers are read: scores in [`low`, `high`], costs with a sign of `currency`.

    Scores above `correct_above` count as the best score and others as the worst, where it is a number. Cells that
    cannot be read are missing where there is a `tally` that counts them.
    """

    low: float = 0.0
    high: float = 1.0
    currency: str = ""
    correct_above: float | None = None
    tally: Tally | None = attribute(default=None, compare=False)

    def score(self, value: Any, name: str) -> float | None:
        """A score rescaled to [0, 1]; None where it is null, empty or NaN. Raises BadRow."""
        try:
            number = self._score(value, name)
        except BadRow as problem:
            self._forgive(problem)
            return None
        if number is None or self.correct_above is None:
            return number
        return float(number > (self.correct_above - self.low) / (self.high - self.low))

    def cost(self, value: Any, name: str) -> float | None:
        """A cost of 0 or more; None where it is null, empty or NaN. Raises BadRow."""
        try:
            return self._cost(value, name)
        except BadRow as problem:
            self._forgive(problem)
            return None

    def _score(self, value: Any, name: str) -> float | None:
        if isinstance(value, str) and value.strip().endswith("%") and (self.low, self.high) != (0, 100):
            raise refusal(name, value, "a number, or `score_range: [0, 100]` for percents")
        bare = value.strip().removesuffix("%") if isinstance(value, str) else value
        number = _number(bare, name, value)
        if number is None:
            return None
        if not self.low <= number <= self.high:
            inside = f"[{self.low:g}, {self.high:g}]"
            needs = f"a score in {inside}, or `score_range: [lowest, highest]` that holds it"
            raise BadRow(f"`{name}`: got {number:g}, needs {needs}", f"`{name}`: needs a score in {inside}")
        return (number - self.low) / (self.high - self.low)

    def _cost(self, value: Any, name: str) -> float | None:
        bare = self._without_sign(value)
        number = _number(bare, name, value, "" if self.currency else ", or `currency: SIGN` for money")
        if number is not None and not 0 <= number < math.inf:
            raise BadRow(f"`{name}`: got {number:g}, needs a cost of 0 or more", f"`{name}`: needs a cost of 0 or more")
        return number

    def _without_sign(self, value: Any) -> Any:
        if not self.currency or not isinstance(value, str):
            return value
        bare = value.strip().removeprefix(self.currency).removesuffix(self.currency).strip()
        return bare.replace(",", "") if _THOUSANDS.fullmatch(bare) else bare

    def _forgive(self, problem: BadRow) -> None:
        if self.tally is None:
            raise problem
        self.tally.note(problem)


def number(value: Any, name: str) -> float | None:
    """A number; None where it is null, empty or NaN. Raises BadRow."""
    return _number(value, name, value)


def _number(value: Any, name: str, written: Any, way_out: str = "") -> float | None:
    if value is None or value == "":
        return None
    plain = _TRUTH.get(value.strip().lower(), value) if isinstance(value, str) else value
    try:
        number = float(plain)
    except (TypeError, ValueError) as error:
        raise refusal(name, written, f"a number{way_out}") from error
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

    @property
    def numbered(self) -> bool:
        """Whether ids are the rows' numbers."""
        ...

    def entry(self, row: Row, number: int, units: Units) -> Entry:
        """Read one row. Raises BadRow."""
        ...

    def column(self, model: str) -> str:
        """The column a model's scores stand in, for messages."""
        ...
