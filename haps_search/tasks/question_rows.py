"""A split's file as questions. Every malformed row is named by file, line and field."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from haps_search.errors import DataError
from haps_search.tasks.paths import NoField, value_at
from haps_search.tasks.rows import BadRow, Row, Rows, at, objects
from haps_search.types import Question

MOST_PROBLEMS = 10
CONTEXT_CUT = "context_cut"
"""The attribute of questions whose context was cut."""

MakeQuestion = Callable[[Mapping[str, Any], int], Question]
"""A row and its number -> a question, or BadRow. Ids are `split:id`, so splits stay apart whatever rows are called."""


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The questions of one file in its order, and what is wrong with each row that was left out."""

    questions: tuple[Question, ...]
    skipped: tuple[str, ...] = ()

    @property
    def truncated(self) -> int:
        """How many contexts were cut."""
        return sum(CONTEXT_CUT in question.attributes for question in self.questions)


class LeftOut(BadRow):
    """Why a row is rightly no question, as one that its data set calls unanswerable."""


@dataclass(frozen=True, slots=True)
class RowReader:
    """How rows become questions: up to `limit` of those that it `keeps`, malformed ones refused or left out."""

    make: MakeQuestion
    limit: int | None
    id_field: str
    malformed: Literal["error", "skip"] = "error"
    keeps: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether a row is wanted; it may raise BadRow."""
    expand: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any] | BadRow]] | None = None
    """The rows that a row of the file holds, where it is not one itself."""

    def read(self, rows: Rows) -> QuestionFile:
        """Read a split.

        Raises:
            DataError: no good row; or up to ten malformed rows with file, line, field, what was got and what is
                needed.
            ConfigError: the file cannot be opened.
        """
        questions: list[Question] = []
        problems: list[str] = []
        skipped: list[str] = []
        for place, found in self._found(rows):
            if isinstance(found, Question):
                questions.append(found)
            elif isinstance(found, LeftOut):
                skipped.append(f"{at(rows.name, place)}: {found}")
            else:
                problems.append(f"{at(rows.name, place)}: {found}")
                if found.final:
                    raise _malformed(problems)
            full = self.malformed == "error" and len(problems) == MOST_PROBLEMS
            if full or len(questions) == self.limit:
                break
        if problems and (self.malformed == "error" or not questions):
            raise _malformed(problems)
        if not questions:
            raise DataError(f"{rows.name}: {self._nothing(skipped)}")
        return QuestionFile(tuple(questions), tuple(problems + skipped))

    def _nothing(self, skipped: Sequence[str]) -> str:
        if skipped:
            return f"all {len(skipped)} rows are left out: {skipped[0]}"
        if self.keeps is not None:
            return "no row is kept by task.where, needs one at least"
        return "got no rows, needs one JSON object per line or an array of them"

    def _found(self, rows: Rows) -> Iterator[tuple[str, Question | BadRow]]:
        places: dict[str, str] = {}
        for row, value in objects(rows):
            for each in self._parts(value):
                try:
                    yield row.place, self._question(each, row, places)
                except BadRow as problem:
                    yield row.place, problem

    def _parts(self, value: Mapping[str, Any] | BadRow) -> Sequence[Mapping[str, Any] | BadRow]:
        if isinstance(value, BadRow):
            return [value]
        try:
            if self.keeps is not None and not self.keeps(value):
                return []
            return [value] if self.expand is None else self.expand(value)
        except BadRow as problem:
            return [problem]

    def _question(self, value: Mapping[str, Any] | BadRow, row: Row, places: dict[str, str]) -> Question:
        if isinstance(value, BadRow):
            raise value
        question = self.make(value, row.number)
        if question.id in places:
            own, first = question.id.partition(":")[2], places[question.id]
            before = first if first.startswith("row ") else f"line {first}"
            raise BadRow(f"`{self.id_field}`: got `{own}`, which {before} has too; ids must differ")
        places[question.id] = row.place
        return question


def _malformed(problems: Sequence[str]) -> DataError:
    if len(problems) == 1:
        return DataError(problems[0])
    more = ", and perhaps more" if len(problems) >= MOST_PROBLEMS else ""
    shown = problems[:MOST_PROBLEMS]
    return DataError("\n  - ".join([f"{len(shown)} malformed rows{more}", *shown]))


NEEDS_PARAGRAPHS = "a list of [title, [sentences]]"
_BRACES = re.compile(r"\{([^{}]+)\}")


def field(row: Mapping[str, Any], name: str, way_out: str) -> Any:
    """The value under a name, a dotted path, or a template: `{premise} {hypothesis}` is filled in with texts and
    numbers. `way_out` says what a user can do where one is missing. Raises BadRow."""
    if name not in row and _BRACES.search(name):
        return _BRACES.sub(lambda found: _filled(row, found[1], way_out), name)
    try:
        return value_at(row, name)
    except NoField as absent:
        reason = missing(absent.known or row, name, way_out, absent.name)
        raise BadRow(reason, f"`{name}`: no such field") from absent


def _filled(row: Mapping[str, Any], name: str, way_out: str) -> str:
    value = field(row, name, way_out)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"`{name}`: got {got(value)}, needs a text or a number to fill in")
    return str(value)


def missing(known: Iterable[str], name: str, way_out: str, part: str) -> str:
    """What to say where a field is not there; of a path `part` is what was looked for last, among the `known`."""
    names = list(known)
    near = difflib.get_close_matches(part, names, n=1)
    has = f"did you mean `{near[0]}`" if near else f"the row has {', '.join(names[:8]) or 'no fields'}"
    return f"`{name}`: got no such field ({has}), {way_out}"


def text(row: Mapping[str, Any], name: str, way_out: str) -> str:
    """A text without its margins; an empty one is refused."""
    value = field(row, name, way_out)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"`{name}`: got {got(value)}, needs text that is not empty")
    return value.strip()


def identity(row: Mapping[str, Any], name: str, way_out: str) -> str:
    """A row's id: text, or a whole number as text."""
    value = field(row, name, way_out)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"`{name}`: got {got(value)}, needs text or a whole number")
    return str(value)


def paragraphs(value: Any, name: str, needs: str = NEEDS_PARAGRAPHS) -> list[tuple[str, str]]:
    """Titles and texts of a context as HotpotQA has it; sentences are joined by one space."""
    if not isinstance(value, list):
        raise BadRow(f"`{name}`: got {got(value)}, needs {needs}")
    found = []
    for place, paragraph in enumerate(value):
        match paragraph:
            case [str(title), [*sentences]] if all(isinstance(sentence, str) for sentence in sentences):
                found.append((title.strip(), " ".join(s.strip() for s in sentences if s.strip())))
            case _:
                raise BadRow(f"`{name}[{place}]`: got {got(paragraph)}, needs [title, [sentences]]")
    return found


def got(value: Any) -> str:
    """A value as the user wrote it, cut where long."""
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "..."
