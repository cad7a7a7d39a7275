"""Questions that a user hands over in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from haps_search.errors import DataError
from haps_search.tasks.rows import BadRow, Row, open_rows
from haps_search.types import Question

_SAFE = re.compile(r"[^\w.-]+")


def read_questions(file: Path) -> list[Question]:
    """JSONL, a JSON array, CSV or Parquet: rows with `question`, optionally `id`, `context` and `task`.

    Raises:
        ConfigError: no such file, or of another ending.
        DataError: file, place and field of the first malformed row.
    """
    rows, found = open_rows(file), dict[str, Question]()
    for row in rows.stream:
        where = rows.where(row.number)
        question = _question(row, where)
        if question.id in found:
            raise DataError(f"{where}: field id: {question.id!r} stands twice; ids name folders")
        found[question.id] = question
    if not found:
        raise DataError(f"{file}: no questions")
    return list(found.values())


def _question(row: Row, where: str) -> Question:
    value = row.value
    if isinstance(value, BadRow):
        raise DataError(f"{where}: {value}")
    if not isinstance(value, Mapping) or not isinstance(value.get("question"), str) or not value["question"].strip():
        raise DataError(f"{where}: field question: needs a text")
    given = "" if value.get("id") is None else str(value["id"])
    identity = _SAFE.sub("_", given).strip(".") or f"line-{row.number}"
    task = {"task": str(value["task"])} if value.get("task") else {}
    reference, context = (str(value.get(name) or "") for name in ("reference", "context"))
    return Question(identity, value["question"], reference, context, task)
