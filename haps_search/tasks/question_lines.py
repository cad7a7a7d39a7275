"""Questions that a user hands over in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from haps_search.errors import DataError
from haps_search.types import Question

_SAFE = re.compile(r"[^\w.-]+")


def read_questions(file: Path) -> list[Question]:
    """One JSON object per line with `question`, optionally `id`, `context` and `task`.

    Raises:
        DataError: file, line and field of the first malformed row.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    found: dict[str, Question] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if line.strip():
            question = _question(line, file, number)
            if question.id in found:
                raise DataError(f"{file}:{number}: field id: {question.id!r} stands twice; ids name folders")
            found[question.id] = question
    if not found:
        raise DataError(f"{file}: no questions")
    return list(found.values())


def _question(line: bytes, file: Path, number: int) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{file}:{number}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise DataError(f"{file}:{number}: field question: needs a text")
    given = "" if row.get("id") is None else str(row["id"])
    identity = _SAFE.sub("_", given).strip(".") or f"line-{number}"
    task = {"task": str(row["task"])} if row.get("task") else {}
    return Question(identity, row["question"], str(row.get("reference", "")), str(row.get("context") or ""), task)
