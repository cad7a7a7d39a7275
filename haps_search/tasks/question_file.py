"""A split's file as questions. Every malformed row is named by file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from haps_search.errors import DataError
from haps_search.tasks.fields import BadRow, got
from haps_search.tasks.json_rows import Row, Unreadable, json_rows
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
class Reading:
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
