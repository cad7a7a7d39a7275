"""The files of a task's splits, and what should be known of them before anything expensive starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from haps_search.config.rewards import ChoiceReward, NumericReward
from haps_search.config.tasks import QaFields, QaTask
from haps_search.errors import ConfigError
from haps_search.tasks.choice_labels import LETTERS, choice_label, choice_labels
from haps_search.tasks.question_rows import (
    CONTEXT_CUT,
    NEEDS_PARAGRAPHS,
    BadRow,
    QuestionFile,
    RowReader,
    field,
    got,
    identity,
    paragraphs,
    text,
)
from haps_search.tasks.split_key import split_key
from haps_search.types import Question, Split

_SHOWN = 3


class SplitFiles:
    """One file per split, read when its questions are first asked for."""

    def __init__(self, names: Mapping[Split, str | None], read: Callable[[Path, Split], QuestionFile]) -> None:
        self._names, self._read = names, read
        self._files: dict[Split, QuestionFile] = {}

    def problems(self) -> Iterator[str]:
        """A line for each file that is not there."""
        for split, name in self._names.items():
            if name is not None and not Path(name).expanduser().is_file():
                yield f"task.{split}: no file `{name}`: give a path that is absolute or relative to {Path.cwd()}"

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split in the order of its file.

        Raises:
            ConfigError: the split has no file.
            DataError: malformed rows, with file, line and field.
        """
        if split not in self._files:
            name = self._names.get(split)
            if name is None:
                raise ConfigError(f"task.{split}: no file for the {split} split: set `{split}: FILE.jsonl`")
            self._files[split] = self._read(Path(name).expanduser(), split)
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
        learnt = {split_key(question.text) for question in self.questions("train")}
        return sum(split_key(question.text) in learnt for question in self.questions("validation"))

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


def read_questions(path: Path, split: Split, config: QaTask) -> QuestionFile:
    """Read a split, or its first `config.limit[split]` questions.

    Raises:
        DataError: malformed rows with file, line, field, what was got and what is needed.
        ConfigError: the file cannot be opened.
    """
    make = partial(_question, split=split, config=config)
    return RowReader(make, config.limit.get(split), config.fields.id or "line").read(path, split)


def _question(row: Mapping[str, Any], number: int, split: Split, config: QaTask) -> Question:
    fields = config.fields
    own_id = str(number) if fields.id is None else identity(row, fields.id, _ID_WAY_OUT)
    asked, references = text(row, fields.question, _WAY_OUT), _references(row, config)
    attributes: dict[str, Any] = {}
    if fields.choices is not None:
        choices = attributes["choices"] = _choices(row, fields.choices)
        labels = tuple(_label(reference, choices, config) for reference in references)
        references = labels if config.reward.type == "multiple_choice" else references
    context = _context(row, fields)
    if len(context) > config.max_context_chars:
        attributes[CONTEXT_CUT] = True
    reference, *others = references
    context = context[: config.max_context_chars]
    return Question(f"{split}:{own_id}", asked, reference, context, attributes, tuple(dict.fromkeys(others)))


def _references(row: Mapping[str, Any], config: QaTask) -> tuple[str, ...]:
    """The text, or each of the texts, of the reference field."""
    name = config.fields.reference
    value = field(row, name, _WAY_OUT)
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


def _label(reference: str, choices: Sequence[str], config: QaTask) -> str:
    name, labels = config.fields.reference, choice_labels(config.reward, len(choices))
    if len(labels) < len(choices):
        raise BadRow(f"`{config.fields.choices}`: got {len(choices)} choices, and task.reward.labels has {len(labels)}")
    label = choice_label(reference, choices, labels, config.reward)
    if label is None:
        raise BadRow(f"`{name}`: got {got(reference)}, needs one of the choices or {labels[0]} to {labels[-1]}")
    return label


def _choices(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = field(row, name, _WAY_OUT)
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
