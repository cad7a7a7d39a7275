"""The files of a task's splits, and what should be known of them before anything expensive starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from haps_search.config.rewards import ChoiceReward, NumericReward
from haps_search.config.tasks import QaFields, QaTask, Source
from haps_search.errors import ConfigError
from haps_search.tasks.chats import read_chat
from haps_search.tasks.choice_labels import LETTERS, choice_label, choice_labels
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
)
from haps_search.tasks.question_shapes import headerless, lacking, listed, recognised
from haps_search.tasks.question_sources import open_source, source_problem
from haps_search.tasks.rows import BadRow, peeked
from haps_search.tasks.split_key import split_key
from haps_search.types import Question, Split

_SHOWN = 3
_ORDER: tuple[Split, ...] = ("train", "validation", "test")


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

    def leaks(self) -> dict[tuple[Split, Split], int]:
        """How many questions of the second split have the normalised text of one in the first; reads all splits."""
        there: list[Split] = [split for split in _ORDER if self._sources.get(split) is not None]
        keys = {split: [split_key(question.text) for question in self.questions(split)] for split in there}
        seen = {split: set(found) for split, found in keys.items()}
        pairs = itertools.combinations(there, 2)
        return {(one, other): sum(key in seen[one] for key in keys[other]) for one, other in pairs}

    def remarks(self, max_context_chars: int) -> list[str]:
        """Cut contexts, rows left out and leaks of all splits, which are read; a line each."""
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
        for (one, other), count in leaks.items():
            if count:
                found.append(f"warning: {count} {other} questions stand in {one} too; rewards there will flatter")
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
    attributes: dict[str, Any] = {} if fields.task is None else {"task": text(row, fields.task, _WAY_OUT)}
    if fields.messages is not None:
        chat = read_chat(field(row, fields.messages, _WAY_OUT), fields.messages)
        attributes["messages"], asked = chat.messages, chat.question
        references = (chat.reply,) if chat.reply else _references(row, config, fields)
    else:
        asked, references = text(row, fields.question, _WAY_OUT), _references(row, config, fields)
    if fields.choices is not None:
        choices = attributes["choices"] = _choices(row, fields.choices)
        labels = tuple(_label(row, each, choices, config, fields) for each in references)
        if config.reward.type == "multiple_choice":
            references = labels
        elif fields.labels is not None:
            every = choice_labels(config.reward, len(choices))
            references = tuple(choices[every.index(label)] for label in labels)
    elif config.reward.type == "multiple_choice":
        raise BadRow("got no options: multiple_choice needs task.fields.choices, the field with the options")
    context = _context(row, fields)
    if len(context) > config.max_context_chars:
        attributes[CONTEXT_CUT] = True
    reference, *others = dict.fromkeys(references)
    context = context[: config.max_context_chars]
    return Question(f"{split}:{own_id}", asked, reference, context, attributes, tuple(others))


def _references(row: Mapping[str, Any], config: QaTask, fields: QaFields) -> tuple[str, ...]:
    """The text, or each of the texts, of the reference field."""
    name = fields.reference
    value = listed(field(row, name, _WAY_OUT))
    if not isinstance(value, list) or not value:
        return (_reference(value, name, config),)
    return tuple(_reference(each, f"{name}[{place}]", config) for place, each in enumerate(value))


def _reference(value: Any, name: str, config: QaTask) -> str:
    """A text; a number where numbers are compared, or where the reward says what a whole one counts."""
    reward, number = config.reward, isinstance(value, int | float) and not isinstance(value, bool)
    if number and isinstance(reward, NumericReward):
        return repr(value).replace(".", reward.decimal)
    if isinstance(reward, ChoiceReward) and number and isinstance(value, int):
        if reward.reference not in ("zero_based", "one_based"):
            raise BadRow(f"`{name}`: got {value}, needs text, or `task.reward.reference: zero_based` or `one_based`")
        return str(value)
    return text({name: value}, name, _WAY_OUT)


def _label(row: Mapping[str, Any], reference: str, choices: Sequence[str], config: QaTask, fields: QaFields) -> str:
    """The label of the option that a reference means, by the row's own labels where it has them."""
    name, labels = fields.reference, choice_labels(config.reward, len(choices))
    if len(labels) < len(choices):
        raise BadRow(f"`{fields.choices}`: got {len(choices)} choices, and task.reward.labels has {len(labels)}")
    if fields.labels is not None:
        return labels[_own_label(row, reference, choices, fields.labels, name)]
    label = choice_label(reference, choices, labels, config.reward)
    if label is None:
        raise BadRow(f"`{name}`: got {got(reference)}, needs one of the choices or {labels[0]} to {labels[-1]}")
    return label


def _own_label(row: Mapping[str, Any], reference: str, choices: Sequence[str], field_name: str, name: str) -> int:
    """The place of a reference among the row's own labels."""
    labels = [str(label) for label in field(row, field_name, _WAY_OUT)]
    if len(labels) != len(choices) or reference not in labels:
        shown = ", ".join(labels[:8])
        raise BadRow(
            f"`{name}`: got {got(reference)}, and the labels {shown} for {len(choices)} options; needs one of as many "
            "labels"
        )
    return labels.index(reference)


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
