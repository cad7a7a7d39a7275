"""What a study's reward reads from real texts, what it pays for them, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from haps_search.config.sweep import Study
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.build import build_task
from haps_search.tasks.split_key import split_key
from haps_search.tasks.task import Comparing, Inspected, Task, earned
from haps_search.types import Completion, Episode, Question, Sampled

TEXT_FIELDS = ("text", "answer", "completion", "response")
QUESTION_FIELDS = ("id", "question")


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """One text. `read` None comes with `failure`; `compared` are answer and references as the reward sees them.

    `learning` is what it earns in training, which is nothing where several answers are `stated`.
    """

    question: str
    text: str
    references: tuple[str, ...]
    read: str | None
    how: str
    failure: str | None
    stated: tuple[str, ...]
    compared: tuple[str, ...]
    reward: float
    learning: float


@dataclass(frozen=True, slots=True)
class CheckedReward:
    """All texts in the order of their file, and the reward that was asked."""

    reward: Mapping[str, Any]
    answers: tuple[CheckedAnswer, ...]
    remarks: tuple[str, ...]

    @property
    def mean(self) -> float:
        return fmean(each.reward for each in self.answers)

    @property
    def unread(self) -> int:
        return sum(each.read is None for each in self.answers)

    @property
    def hedged(self) -> int:
        """How many state several answers, which earn nothing while learning."""
        return sum(bool(each.stated) for each in self.answers)


def check_reward(study: Study, answers: Path) -> CheckedReward:
    """Read and pay the texts of a JSONL file.

    A row has the text (`text`, `answer`, `completion` or `response`) and names its question by `id`, with or without
    its split, or by the words of `question`. Questions are those of train and validation; test is not read.

    Raises:
        ConfigError: no such files, or a task without texts. DataError: a malformed row, with its line.
    """
    task = build_task(study.experiment.task)
    if study.experiment.task.type == "replay":
        raise ConfigError("a replay's rewards stand in its table, no text is read: check the study that made the table")
    remarks = tuple(task.remarks()) if isinstance(task, Inspected) else ()
    known = _questions(task)
    checked = tuple(_checked(task, _named(row, known, place), text) for place, row, text in _rows(answers))
    if not checked:
        raise DataError(f"{answers}: got no rows, needs one JSON object per line with {' or '.join(TEXT_FIELDS)}")
    described = study.experiment.task.model_dump(mode="json")
    return CheckedReward(described.get("reward", {"type": task.name}), checked, remarks)


def _questions(task: Task) -> dict[str, Question]:
    """By id with its split, by id alone, and by words; of two with one name the first, validation before train."""
    known: dict[str, Question] = {}
    for split in ("validation", "train"):
        for question in task.questions(split):
            for name in (question.id, question.id.partition(":")[2], split_key(question.text)):
                known.setdefault(name, question)
    return known


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--answers: cannot read `{path}` ({error}): name a JSONL file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: bad JSON ({error.msg}), needs one object per line") from error
        yield place, *_row(row, place)


def _row(row: Any, place: str) -> tuple[dict[str, Any], str]:
    text = next((row[name] for name in TEXT_FIELDS if name in row), None) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{place}: got no text, needs an object with {' or '.join(TEXT_FIELDS)}")
    return row, text


def _named(row: Mapping[str, Any], known: Mapping[str, Question], place: str) -> Question:
    names = [str(row[name]) for name in QUESTION_FIELDS if name in row]
    found = next((known[n] for name in names for n in (name, split_key(name)) if n in known), None)
    if found is None:
        got = f"`{names[0]}`" if names else "neither id nor question"
        raise DataError(f"{place}: got {got}, needs a question of train or validation, by `id` or by its words")
    return found


def _checked(task: Task, question: Question, text: str) -> CheckedAnswer:
    role = task.roles[0].name
    parsed = task.parse(question, role, text)
    completion = Completion(role, "", (), Sampled(text, (), (), 0, 0), parsed)
    episode = Episode(question, tuple("" for _ in task.roles), (completion,))
    return CheckedAnswer(
        question=question.id,
        text=text,
        references=question.references,
        read=parsed.answer,
        how=parsed.how,
        failure=parsed.failure,
        stated=parsed.stated,
        compared=_compared(task, question, [*([parsed.answer] if parsed.answer else []), *question.references]),
        reward=earned(task, episode),
        learning=earned(task, episode, learning=True),
    )


def _compared(task: Task, question: Question, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(task.compared(question, text) for text in texts) if isinstance(task, Comparing) else tuple(texts)
