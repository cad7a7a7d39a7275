"""The files of a task's splits, and what should be known of them before anything expensive starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from haps_search.config.tasks import QaFields, QaTask, Source
from haps_search.errors import ConfigError
from haps_search.tasks.chats import read_chat
from haps_search.tasks.question_rows import (
    CONTEXT_CUT,
    NEEDS_PARAGRAPHS,
    QuestionFile,
    RowReader,
    field,
    got,
    identity,
    paragraphs,
    text,
    texts,
)
from haps_search.tasks.question_shapes import headerless, lacking, listed, recognised
from haps_search.tasks.question_sources import open_source, source_problem
from haps_search.tasks.rewards import LETTERS, choice_letter, normalise
from haps_search.tasks.rows import BadRow, peeked
from haps_search.types import Question, Split

_SHOWN = 3


class SplitFiles:
    """One source per split, read when its questions are first asked for."""

    def __init__(self, sources: Mapping[Split, Source | None], read: Callable[[Source, Split], QuestionFile]) -> None:
        self._sources, self._read = sources, read
        self._files: dict[Split, QuestionFile] = {}

    def problems(self) -> Iterator[str]:
        """A line for each source that is not there."""
        for split, source in self._sources.items():
            if source is not None and (problem := source_problem(source, split)) is not None:
                yield problem

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split in the order of its file.

        Raises:
            ConfigError: the split has no file.
            DataError: malformed rows, with file, line and field.
        """
        if split not in self._files:
            source = self._sources.get(split)
            if source is None:
                raise ConfigError(f"task.{split}: no file for the {split} split: set `{split}: FILE.jsonl`")
            self._files[split] = self._read(source, split)
        return self._files[split].questions

    @property
    def truncated(self) -> Mapping[Split, int]:
        """How many contexts of each split read so far were cut."""
        return {split: file.truncated for split, file in self._files.items()}

    @property
    def skipped(self) -> Mapping[Split, tuple[str, ...]]:
        """The problems of the rows left out of each split read so far."""
        return {split: file.skipped for split, file in self._files.items()}

    def leaks(self) -> int:
        """How many validation questions have the normalised text of one in train; reads both."""
        learnt = {normalise(question.text) for question in self.questions("train")}
        return sum(normalise(question.text) in learnt for question in self.questions("validation"))

    def remarks(self, max_context_chars: int) -> list[str]:
        """Cut contexts, rows left out and leaks of train and validation, which are read; a line each."""
        leaks = self.leaks()
        found = [
            f"warning: {count} contexts of {split} are cut at {max_context_chars} characters"
            for split, count in self.truncated.items()
            if count
        ]
        for split, problems in self.skipped.items():
            if problems:
                more = ", ..." if len(problems) > _SHOWN else ""
                found.append(f"warning: {len(problems)} rows of {split} left out: {'; '.join(problems[:_SHOWN])}{more}")
        if leaks:
            found.append(f"warning: {leaks} validation questions stand in train too; rewards there will flatter")
        return found


_WAY_OUT = "needs it or another name under task.fields"
_ID_WAY_OUT = f"{_WAY_OUT}, or `task.fields.id: null` to name rows by their line"


def read_questions(source: Source, split: Split, config: QaTask) -> QuestionFile:
    """Read a split, or its first `config.limit[split]` questions. Rows of a known data set need no fields.

    Raises:
        DataError: malformed rows with file, line, field, what was got and what is needed.
        ConfigError: the file cannot be opened. PoolError: a hub that does not answer.
    """
    guess = config.fields == QaFields()
    first, rows = peeked(open_source(source, split, headerless if guess else None))
    shape = recognised(first) if guess and lacking(first, config.fields) else None
    fields = config.fields if shape is None else shape.fields
    plain = [] if shape is None else [each for each in shape.rows(first) if isinstance(each, Mapping)]
    if plain and all(each.get("id") is None for each in plain):
        fields = fields.model_copy(update={"id": None})  # what people make of a data set may lack its ids
    make = partial(_question, split=split, config=config, fields=fields)
    keeps = partial(_kept, where=config.where) if config.where else None
    expand = None if shape is None else shape.rows
    return RowReader(make, config.limit.get(split), fields.id or "line", keeps=keeps, expand=expand).read(rows)


def _kept(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    for name, wanted in where.items():
        value = field(row, name, "needs it or another name under task.where")
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if value not in allowed and not (isinstance(value, str) and value in map(str, allowed)):
            return False
    return True


def _question(row: Mapping[str, Any], number: int, split: Split, config: QaTask, fields: QaFields) -> Question:
    own_id = str(number) if fields.id is None else identity(row, fields.id, _ID_WAY_OUT)
    attributes: dict[str, Any] = {}
    if fields.messages is not None:
        chat = read_chat(field(row, fields.messages, _WAY_OUT), fields.messages)
        attributes["messages"], asked = chat.messages, chat.question
        references = (chat.reply,) if chat.reply else texts(row, fields.reference, _WAY_OUT)
    else:
        asked, references = text(row, fields.question, _WAY_OUT), texts(row, fields.reference, _WAY_OUT)
    reference = references[0]
    if len(references) > 1:
        attributes["references"] = references
    if fields.choices is not None:
        choices = attributes["choices"] = _choices(row, fields.choices)
        letter = _letter(row, reference, choices, fields)
        if config.reward.type == "multiple_choice":
            reference = letter
        elif fields.labels is not None:
            reference = choices[LETTERS.index(letter)]
    elif config.reward.type == "multiple_choice":
        raise BadRow("got no options: multiple_choice needs task.fields.choices, the field with the options")
    context = _context(row, fields)
    if len(context) > config.max_context_chars:
        attributes[CONTEXT_CUT] = True
    return Question(f"{split}:{own_id}", asked, reference, context[: config.max_context_chars], attributes)


def _letter(row: Mapping[str, Any], reference: str, choices: Sequence[str], fields: QaFields) -> str:
    """The letter of the option that a reference means, by the row's own labels where it has them."""
    if fields.labels is None:
        letter = choice_letter(reference, choices)
        if letter is None:
            last = LETTERS[len(choices) - 1]
            raise BadRow(f"`{fields.reference}`: got {got(reference)}, needs one of the choices or A to {last}")
        return letter
    labels = [str(label) for label in field(row, fields.labels, _WAY_OUT)]
    if len(labels) != len(choices) or reference not in labels:
        shown = ", ".join(labels[:8])
        raise BadRow(
            f"`{fields.reference}`: got {got(reference)}, and the labels {shown} for {len(choices)} options; needs one "
            "of as many labels"
        )
    return LETTERS[labels.index(reference)]


def _choices(row: Mapping[str, Any], names: str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(names, tuple):
        value, name = [field(row, each, _WAY_OUT) for each in names], ", ".join(names)
    else:
        value, name = listed(field(row, names, _WAY_OUT)), names
    texts = isinstance(value, list) and all(isinstance(option, str) and option.strip() for option in value)
    if not texts or not 2 <= len(value) <= len(LETTERS) or len(set(value)) < len(value):
        raise BadRow(f"`{name}`: got {got(value)}, needs a list of 2 to {len(LETTERS)} different texts")
    return tuple(value)


def _context(row: Mapping[str, Any], fields: QaFields) -> str:
    if fields.context is None:
        return ""
    value = field(row, fields.context, _WAY_OUT)
    plain = value is None or isinstance(value, str)
    if fields.supporting is None and plain:
        return (value or "").strip()
    found = paragraphs(value, fields.context, NEEDS_PARAGRAPHS if plain else f"text or {NEEDS_PARAGRAPHS}")
    if fields.supporting is not None:
        titles = _titles(field(row, fields.supporting, _WAY_OUT), fields.supporting)
        found = [(title, body) for title, body in found if title in titles]
        if not found:
            named = ", ".join(sorted(titles)[:3]) or "none"
            raise BadRow(f"`{fields.supporting}`: got titles ({named}) that no paragraph of the context has")
    return "\n".join(f"{title}: {body}" for title, body in found)


def _titles(value: Any, name: str) -> set[str]:
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not isinstance(pair, list) or not pair or not isinstance(pair[0], str):
            raise BadRow(f"`{name}`: got {got(pair)}, needs a list of [title, sentence] pairs")
    return {pair[0].strip() for pair in pairs}
