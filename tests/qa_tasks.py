"""Small qa tasks over files that are written for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from haps_search.config.tasks import QaTask as Config
from haps_search.errors import DataError
from haps_search.tasks.qa import QaTask
from haps_search.types import Completion, Episode, Question, Sampled

CHOICE = {
    "reward": {"type": "multiple_choice"},
    "prompt": "{question}\n{choices}",
    "fields": {"choices": "options"},
}


def row(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": f"What is {number}?", "reference": str(number), **fields}


def write(path: Path, *rows: Any) -> str:
    """A line per row, a text as it is."""
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def task(folder: Path, *rows: Any, **settings: Any) -> QaTask:
    train = write(folder / "train.jsonl", *rows)
    return QaTask(Config.model_validate({"train": train, "validation": train, **settings}))


def failure(folder: Path, *rows: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        task(folder, *rows, **settings).questions("train")
    return str(caught.value)


def played(question: Question, qa: QaTask, text: str) -> Episode:
    said = Completion("answerer", "m", (), Sampled(text, (1,), (-1.0,), 1, 1), qa.parse(question, "answerer", text))
    return Episode(question, ("m",), (said,))


def paid(question: Question, qa: QaTask, text: str) -> float:
    return qa.reward(played(question, qa, text))
