"""The user's JSONL file, row by row, as questions. Every malformed row is named by file, line and field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haps_search.config.tasks import QaFields, QaTask
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.scoring import LETTERS, choice_letter
from haps_search.types import Question, Split

MOST_PROBLEMS = 10
_NEEDS_PARAGRAPHS = "text or a list of [title, [sentences]]"


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The questions of one file in its order, and how many contexts were cut."""

    questions: tuple[Question, ...]
    truncated: int


class _BadRow(Exception):
    """One row's problem, without file and line."""


def read_questions(path: Path, split: Split, config: QaTask) -> QuestionFile:
    """Read a split, or its first `config.limit[split]` questions; blank lines are skipped.

    Question ids are `split:id`, so that splits stay apart whatever the files call their rows.

    Raises:
        DataError: up to ten malformed rows with file, line, field, what was got and what is needed.
        ConfigError: the file cannot be opened.
    """
    questions: list[Question] = []
    problems: list[str] = []
    lines_of: dict[str, int] = {}
    truncated = 0
    for number, line in _lines(path, split):
        if len(questions) == config.limit.get(split) or len(problems) == MOST_PROBLEMS:
            break
        try:
            row = _row(line)
            question, cut = _question(row, number, split, config)
            _refuse_repeated(question.id, number, lines_of, config.fields)
        except _BadRow as problem:
            problems.append(f"{path}:{number}: {problem}")
            continue
        questions.append(question)
        truncated += cut
    _raise_for(problems, questions, path)
    return QuestionFile(tuple(questions), truncated)


def _lines(path: Path, split: Split) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield number, line
    except OSError as error:
        raise ConfigError(f"task.{split}: cannot read `{path}` ({error.strerror}): name a JSONL file") from error


def _raise_for(problems: Sequence[str], questions: Sequence[Question], path: Path) -> None:
    if not problems and not questions:
        raise DataError(f"{path}: got no rows, needs one JSON object per line")
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        more = ", and perhaps more" if len(problems) == MOST_PROBLEMS else ""
        raise DataError("\n  - ".join([f"{len(problems)} malformed rows{more}", *problems]))


def _row(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise _BadRow(f"got bytes that are not UTF-8 (at byte {error.start}), save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise _BadRow(f"bad JSON ({error.msg} at character {error.pos + 1}), needs one object per line") from error
    if not isinstance(row, dict):
        raise _BadRow(f"got {_got(row)}, needs a JSON object")
    return row


def _question(row: Mapping[str, Any], number: int, split: Split, config: QaTask) -> tuple[Question, bool]:
    fields = config.fields
    own_id = _id(row, number, fields)
    text, reference = _text(row, fields.question), _text(row, fields.reference)
    attributes: dict[str, Any] = {}
    if fields.choices is not None:
        choices = attributes["choices"] = _choices(row, fields.choices)
        letter = choice_letter(reference, choices)
        if letter is None:
            last = LETTERS[len(choices) - 1]
            raise _BadRow(f"`{fields.reference}`: got {_got(reference)}, needs one of the choices or A to {last}")
        reference = letter if config.reward.type == "multiple_choice" else reference
    context = _context(row, fields)
    cut = context[: config.max_context_chars]
    question = Question(f"{split}:{own_id}", text, reference, cut, attributes)
    return question, len(cut) < len(context)


def _refuse_repeated(id: str, number: int, lines_of: dict[str, int], fields: QaFields) -> None:
    if id in lines_of:
        own = id.partition(":")[2]
        raise _BadRow(f"`{fields.id}`: got `{own}`, which line {lines_of[id]} has too; ids must differ")
    lines_of[id] = number


def _id(row: Mapping[str, Any], number: int, fields: QaFields) -> str:
    if fields.id is None:
        return str(number)
    if fields.id not in row:
        raise _BadRow(f"{_missing(row, fields.id)}, or `task.fields.id: null` to name rows by their line")
    value = row[fields.id]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _BadRow(f"`{fields.id}`: got {_got(value)}, needs text or a whole number")
    return str(value)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = _field(row, name)
    if not isinstance(value, str) or not value.strip():
        raise _BadRow(f"`{name}`: got {_got(value)}, needs text that is not empty")
    return value.strip()


def _choices(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = _field(row, name)
    texts = isinstance(value, list) and all(isinstance(option, str) and option.strip() for option in value)
    if not texts or not 2 <= len(value) <= len(LETTERS) or len(set(value)) < len(value):
        raise _BadRow(f"`{name}`: got {_got(value)}, needs a list of 2 to {len(LETTERS)} different texts")
    return tuple(value)


def _context(row: Mapping[str, Any], fields: QaFields) -> str:
    if fields.context is None:
        return ""
    value = _field(row, fields.context)
    if fields.supporting is None and (value is None or isinstance(value, str)):
        return (value or "").strip()
    paragraphs = _paragraphs(value, fields.context)
    if fields.supporting is not None:
        titles = _titles(_field(row, fields.supporting), fields.supporting)
        paragraphs = [(title, body) for title, body in paragraphs if title in titles]
        if not paragraphs:
            named = ", ".join(sorted(titles)[:3]) or "none"
            raise _BadRow(f"`{fields.supporting}`: got titles ({named}) that no paragraph of the context has")
    return "\n".join(f"{title}: {body}" for title, body in paragraphs)


def _paragraphs(value: Any, name: str) -> list[tuple[str, str]]:
    needs = "a list of [title, [sentences]]" if isinstance(value, str) or value is None else _NEEDS_PARAGRAPHS
    if not isinstance(value, list):
        raise _BadRow(f"`{name}`: got {_got(value)}, needs {needs}")
    found = []
    for place, paragraph in enumerate(value):
        match paragraph:
            case [str(title), [*sentences]] if all(isinstance(sentence, str) for sentence in sentences):
                found.append((title.strip(), " ".join(s.strip() for s in sentences if s.strip())))
            case _:
                raise _BadRow(f"`{name}[{place}]`: got {_got(paragraph)}, needs [title, [sentences]]")
    return found


def _titles(value: Any, name: str) -> set[str]:
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not isinstance(pair, list) or not pair or not isinstance(pair[0], str):
            raise _BadRow(f"`{name}`: got {_got(pair)}, needs a list of [title, sentence] pairs")
    return {pair[0].strip() for pair in pairs}


def _field(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise _BadRow(_missing(row, name))
    return row[name]


def _missing(row: Mapping[str, Any], name: str) -> str:
    near = difflib.get_close_matches(name, list(row), n=1)
    has = f"did you mean `{near[0]}`" if near else f"the row has {', '.join(list(row)[:8]) or 'no fields'}"
    return f"`{name}`: got no such field ({has}), needs it or another name under task.fields"


def _got(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "..."
