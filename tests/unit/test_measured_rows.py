"""Rows of a comparison are kept as they are measured: nothing is measured twice, and nothing stale is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from haps_search.config.run import Experiment
from haps_search.engines.cluster.session import Session
from haps_search.errors import Interrupted
from haps_search.search.validation import Scored
from haps_search.sweep.layout import lock_file
from haps_search.sweep.lock import Lock
from haps_search.types import Completion, Episode, Message, Parsed, Question, Sampled
from haps_search.verbs.measure import frozen_scores
from haps_search.verbs.measured_rows import FOLDER, MeasuredRows

QUESTIONS = [Question(f"q{n}", f"what is {n}?", str(n)) for n in range(3)]
WHAT = {"trial": 3, "step": 20, "run": {"steps": 20}}


def scored(questions: list[Question]) -> Scored:
    def episode(question: Question) -> Episode:
        sampled = Sampled(f"it is {question.reference}", (1, 2), (-0.5, -0.25), 7, 2)
        parsed = Parsed(question.reference, None, ("1", "2"), "after `is`")
        completion = Completion("answerer", "adder", (Message("user", question.text),), sampled, parsed)
        return Episode(question, ("adder",), (completion,))

    return Scored(tuple(map(episode, questions)), (0.0, 0.5, 1.0), 0.25, ({"aiq": 0.5}, {}, {"aiq": 1.0}))


class Measuring:
    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> Scored:
        self.times += 1
        return scored(QUESTIONS)


def row(folder: Path, measure: Callable[[], Awaitable[Scored]], **changes: object) -> Scored:
    what = {**WHAT, **changes}
    return asyncio.run(MeasuredRows(folder, "validation").row(what, QUESTIONS, measure))


def test_a_row_is_measured_once_and_comes_back_as_it_was(tmp_path: Path) -> None:
    measuring = Measuring()
    first, second = (row(tmp_path, measuring) for _ in range(2))
    assert measuring.times == 1
    assert (second.rewards, second.adapter_norm, second.measures) == (first.rewards, first.adapter_norm, first.measures)
    for before, after in zip(first.episodes, second.episodes, strict=True):
        assert (after.question, after.assignment, after.answer, after.hedged) == (
            before.question, before.assignment, before.answer, before.hedged,
        )  # fmt: skip
        assert after.completions[0].sampled.text == before.completions[0].sampled.text
    assert second.completion_tokens == first.completion_tokens


@pytest.mark.parametrize("change", [{"step": 25}, {"trial": 4}, {"run": {"steps": 21}}], ids=str)
def test_another_checkpoint_or_run_is_another_row(tmp_path: Path, change: dict[str, object]) -> None:
    measuring = Measuring()
    row(tmp_path, measuring)
    row(tmp_path, measuring, **change)
    assert measuring.times == 2


def test_other_questions_or_another_split_are_another_row(tmp_path: Path) -> None:
    measuring = Measuring()
    row(tmp_path, measuring)
    asyncio.run(MeasuredRows(tmp_path, "test").row(WHAT, QUESTIONS, measuring))
    other = [*QUESTIONS[:2], Question("q2", "what is 2?", "two")]
    asyncio.run(MeasuredRows(tmp_path, "validation").row(WHAT, other, measuring))
    assert measuring.times == 3


@pytest.mark.parametrize("change", [{"context": "a passage"}, {"other_references": ("two",)}], ids=str)
def test_questions_with_another_context_or_more_references_are_another_row(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    measuring = Measuring()
    row(tmp_path, measuring)
    other = [*QUESTIONS[:2], replace(QUESTIONS[2], **change)]
    asyncio.run(MeasuredRows(tmp_path, "validation").row(WHAT, other, measuring))
    assert measuring.times == 2


class Host:
    """Of an engine whose candidate is right where it is told to think, and of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def engine(self, experiment: Experiment) -> Host:
        return self

    async def sample(self, name: str, requests: Sequence[Any]) -> list[Sampled]:
        self.asked += [each.messages[-1].content for each in requests]
        return [Sampled("yes" if "Think" in r.messages[-1].content else "no", (), (), 1, 1) for r in requests]

    async def close(self) -> None:
        pass


def test_frozen_candidates_under_another_prompt_are_measured_anew(tmp_path: Path) -> None:
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    for split, file in files.items():
        rows = [{"id": f"{split}{i}", "question": f"{split} {i}?", "reference": "yes"} for i in range(4)]
        Path(file).write_text("".join(json.dumps(each) + "\n" for each in rows))
    task, host, earned = {"type": "qa", **files, "reward": {"type": "exact"}}, Host(), []
    for prompt in ("{question}", "Think. {question}", "{question}"):
        candidate = {"name": "a", "source": {"type": "zoo", "name": "adder"}}
        experiment = Experiment.model_validate({"task": {**task, "prompt": prompt}, "candidates": [candidate]})
        found = asyncio.run(frozen_scores(cast(Session, host), tmp_path, experiment, "validation"))
        earned.append(found[("a",)].mean)
    assert earned == [0.0, 1.0, 0.0]
    assert len(host.asked) == len(set(host.asked)), "the third is the first"


def test_a_row_that_is_not_whole_is_measured_again(tmp_path: Path) -> None:
    measuring = Measuring()
    row(tmp_path, measuring)
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_text(file.read_text()[:-20])
    assert row(tmp_path, measuring).rewards == (0.0, 0.5, 1.0)
    assert measuring.times == 2
    assert json.loads(file.read_text())["trial"] == 3


def test_a_driver_that_is_to_leave_measures_no_further_row(tmp_path: Path) -> None:
    measuring, lock = Measuring(), Lock(lock_file(tmp_path))
    row(tmp_path, measuring)
    lock.leave("SIGTERM")
    assert row(tmp_path, measuring).rewards == (0.0, 0.5, 1.0), "what is there needs no measuring"
    with pytest.raises(Interrupted, match="rows that were measured are kept"):
        row(tmp_path, measuring, trial=4)
    lock.release()
    held = json.loads(lock_file(tmp_path).read_text())
    lock_file(tmp_path).write_text(json.dumps({**held, "pid": 1}))
    row(tmp_path, measuring, trial=4)  # what another driver was asked once is nothing to this process
    assert measuring.times == 2
