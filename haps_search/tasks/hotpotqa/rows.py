"""Rows in HotpotQA's own format as questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from haps_search.config.hotpotqa import HotpotqaTask
from haps_search.tasks.fields import NEEDS_PARAGRAPHS, BadRow, field, identity, paragraphs, text
from haps_search.tasks.question_file import CONTEXT_CUT, QuestionFile, Reading
from haps_search.tasks.retrieval import Passage, Passages
from haps_search.types import Question, Split

_WAY_OUT = "needs HotpotQA's own fields (`type: qa` takes other names)"
_PASSAGES = "passages"


def read_hotpotqa(path: Path, split: Split, config: HotpotqaTask) -> QuestionFile:
    """Read `_id`, `question`, `answer` and `context` of a split's rows; other fields are not looked at.

    Raises:
        DataError: malformed rows with file, line, field, what was got and what is needed.
        ConfigError: the file cannot be opened.
    """
    make = partial(_question, split=split, most=config.max_context_chars)
    return Reading(make, config.limit.get(split), "_id", config.malformed).read(path, split)


def passages_of(question: Question) -> Passages:
    """The question's own paragraphs; of one asked by hand, the lines of its context, `Title: text` each."""
    found: Passages | None = question.attributes.get(_PASSAGES)
    return tuple(map(_line, filter(str.strip, question.context.splitlines()))) if found is None else found


def _line(line: str) -> Passage:
    title, colon, body = line.partition(": ")
    return Passage(title.strip(), body.strip()) if colon else Passage("Context", line.strip())


def _question(row: Mapping[str, Any], number: int, split: Split, most: int) -> Question:
    asked, answer = text(row, "question", _WAY_OUT), text(row, "answer", _WAY_OUT)
    context = paragraphs(field(row, "context", _WAY_OUT), "context")
    if not context:
        raise BadRow(f"`context`: got [], needs {NEEDS_PARAGRAPHS}")
    kept = tuple(_first(context, most))
    attributes: dict[str, Any] = {_PASSAGES: kept}
    if _length(kept) < sum(len(title) + len(body) for title, body in context):
        attributes[CONTEXT_CUT] = True
    return Question(f"{split}:{identity(row, '_id', _WAY_OUT)}", asked, answer, attributes=attributes)


def _first(context: Sequence[tuple[str, str]], most: int) -> Iterator[Passage]:
    """Passages of at most `most` characters in all, titles included; the last one may be cut."""
    for title, body in context:
        if most <= 0:
            return
        passage = Passage(title[:most], body[: max(most - len(title), 0)])
        most -= _length((passage,))
        yield passage


def _length(passages: Passages) -> int:
    return sum(len(passage.title) + len(passage.text) for passage in passages)
