"""A split's file as questions. Every malformed row is named by file, line and field."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from haps_search.errors import ConfigError, DataError
from haps_search.types import Question, Split

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


@dataclass(frozen=True, slots=True)
class RowReader:
    """How a file is read: up to `limit` questions, malformed rows refused or left out."""

    make: MakeQuestion
    limit: int | None
    id_field: str
    malformed: Literal["error", "skip"] = "error"

    def read(self, path: Path, split: Split) -> QuestionFile:
        """Read a file.

        Raises:
            DataError: no good row; or up to ten malformed rows with file, line, field, what was got and what is
                needed.
            ConfigError: the file cannot be opened.
        """
        questions: list[Question] = []
        problems: list[str] = []
        for place, found in self._rows(path, split):
            if isinstance(found, Question):
                questions.append(found)
            else:
                problems.append(f"{path}:{place}: {found.reason}")
                if found.final:
                    raise _malformed(problems)
            full = self.malformed == "error" and len(problems) == MOST_PROBLEMS
            if full or len(questions) == self.limit:
                break
        if problems and (self.malformed == "error" or not questions):
            raise _malformed(problems)
        if not questions:
            raise DataError(f"{path}: got no rows, needs one JSON object per line or an array of them")
        return QuestionFile(tuple(questions), tuple(problems))

    def _rows(self, path: Path, split: Split) -> Iterator[tuple[str, Question | Unreadable]]:
        places: dict[str, str] = {}
        for row in json_rows(path, split):
            if isinstance(row.value, Unreadable):
                yield row.place, row.value
                continue
            try:
                yield row.place, self._question(row, places)
            except BadRow as problem:
                yield row.place, Unreadable(str(problem))

    def _question(self, row: Row, places: dict[str, str]) -> Question:
        if not isinstance(row.value, dict):
            raise BadRow(f"got {got(row.value)}, needs a JSON object")
        question = self.make(row.value, row.number)
        if question.id in places:
            own = question.id.partition(":")[2]
            raise BadRow(f"`{self.id_field}`: got `{own}`, which line {places[question.id]} has too; ids must differ")
        places[question.id] = row.place
        return question


def _malformed(problems: Sequence[str]) -> DataError:
    if len(problems) == 1:
        return DataError(problems[0])
    more = ", and perhaps more" if len(problems) >= MOST_PROBLEMS else ""
    shown = problems[:MOST_PROBLEMS]
    return DataError("\n  - ".join([f"{len(shown)} malformed rows{more}", *shown]))


_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_NOT_UTF8 = "got bytes that are not UTF-8 (at byte {}), save the file as UTF-8"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a row is no question. After a `final` one nothing of the file can be read."""

    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A value, or why it is none. `number` is its line, or its number in an array; `place` is for messages."""

    number: int
    place: str
    value: Any


def json_rows(path: Path, split: Split) -> Iterator[Row]:
    """The rows of a JSONL file, or of the array that the file holds; blank lines are skipped.

    An array is decoded row by row, with the whole text in memory.

    Raises:
        ConfigError: the file cannot be opened.
    """
    begun = False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(_BOM) if number == 1 else line
                if not begun and line.lstrip().startswith(b"["):
                    yield from _array(line + file.read(), number)
                    return
                if line.strip():
                    begun = True
                    yield Row(number, str(number), _value(line))
    except OSError as error:
        reason = f"task.{split}: cannot read `{path}` ({error.strerror})"
        raise ConfigError(f"{reason}: name a JSON or JSONL file") from error


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return Unreadable(_NOT_UTF8.format(error.start))
    except json.JSONDecodeError as error:
        return Unreadable(f"bad JSON ({error.msg} at character {error.pos + 1}), needs one object per line")


def _array(content: bytes, line: int) -> Iterator[Row]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield Row(1, str(line), Unreadable(_NOT_UTF8.format(error.start), final=True))
        return
    counted, number, at = 0, 0, _past_space(text, text.index("[") + 1)
    while not text.startswith("]", at):
        line, counted, number = line + text.count("\n", counted, at), at, number + 1
        value, at = _element(text, at)
        yield Row(number, f"{line} (row {number})", value)
        if at < 0:
            return
    if text[at + 1 :].strip():
        line += text.count("\n", counted, at)
        reason = "text goes on after the array's `]`, needs one array or one object per line"
        yield Row(number + 1, str(line), Unreadable(reason, final=True))


def _element(text: str, at: int) -> tuple[Any, int]:
    """A value of the array and where the next one starts; -1 where it cannot be told."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except json.JSONDecodeError as error:
        return _broken(f"{error.msg} at character {error.pos + 1} of the file"), -1
    after = _past_space(text, end)
    if text.startswith(",", after):
        return value, _past_space(text, after + 1)
    if text.startswith("]", after):
        return value, after
    return _broken(f"neither `,` nor `]` at character {after + 1} of the file"), -1


def _broken(what: str) -> Unreadable:
    return Unreadable(f"bad JSON ({what}), needs an array of objects", final=True)


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


NEEDS_PARAGRAPHS = "a list of [title, [sentences]]"


class BadRow(Exception):
    """One row's problem, without file and line."""


def field(row: Mapping[str, Any], name: str, way_out: str) -> Any:
    """The value under a name; `way_out` says what a user can do where it is missing."""
    if name not in row:
        raise BadRow(missing(row, name, way_out))
    return row[name]


def missing(row: Mapping[str, Any], name: str, way_out: str) -> str:
    near = difflib.get_close_matches(name, list(row), n=1)
    has = f"did you mean `{near[0]}`" if near else f"the row has {', '.join(list(row)[:8]) or 'no fields'}"
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
