"""The user's own JSON rows as questions of the `qa` task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from haps_search.config.tasks import QaFields, QaTask
from haps_search.tasks.fields import NEEDS_PARAGRAPHS, BadRow, field, got, identity, paragraphs, text
from haps_search.tasks.question_file import CONTEXT_CUT, QuestionFile, Reading
from haps_search.tasks.scoring import LETTERS, choice_letter
from haps_search.types import Question, Split

_WAY_OUT = "needs it or another name under task.fields"
_ID_WAY_OUT = f"{_WAY_OUT}, or `task.fields.id: null` to name rows by their line"


def read_questions(path: Path, split: Split, config: QaTask) -> QuestionFile:
    """Read a split, or its first `config.limit[split]` questions.

    Raises:
        DataError: malformed rows with file, line, field, what was got and what is needed.
        ConfigError: the file cannot be opened.
    """
    make = partial(_question, split=split, config=config)
    return Reading(make, config.limit.get(split), config.fields.id or "line").read(path, split)


def _question(row: Mapping[str, Any], number: int, split: Split, config: QaTask) -> Question:
    fields = config.fields
    own_id = str(number) if fields.id is None else identity(row, fields.id, _ID_WAY_OUT)
    asked, reference = text(row, fields.question, _WAY_OUT), text(row, fields.reference, _WAY_OUT)
    attributes: dict[str, Any] = {}
    if fields.choices is not None:
        choices = attributes["choices"] = _choices(row, fields.choices)
        letter = choice_letter(reference, choices)
        if letter is None:
            last = LETTERS[len(choices) - 1]
            raise BadRow(f"`{fields.reference}`: got {got(reference)}, needs one of the choices or A to {last}")
        reference = letter if config.reward.type == "multiple_choice" else reference
    context = _context(row, fields)
    if len(context) > config.max_context_chars:
        attributes[CONTEXT_CUT] = True
    return Question(f"{split}:{own_id}", asked, reference, context[: config.max_context_chars], attributes)


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
