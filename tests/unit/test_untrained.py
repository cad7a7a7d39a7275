"""What is compared and trains nothing, by closed forms and by what tasks say of it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from made import NumberTask, ScriptedEngine
from sweeps import a_study

from haps_search.config import tasks as config
from haps_search.config.run import Experiment, SamplingConfig
from haps_search.evaluation.untrained import (
    WithExamples,
    best_per_task,
    independent,
    majority_answers,
    per_task,
    score_majority,
    takes_examples,
)
from haps_search.search.validation import score_assignment
from haps_search.tasks.qa import QaTask
from haps_search.tasks.task import task_of
from haps_search.types import Episode, Question


def asked(text: str, reference: str, task: str = "") -> Question:
    return Question(text, text, reference, attributes={"task": task} if task else {})


@pytest.fixture
def qa(tmp_path: Path) -> QaTask:
    answers = [("boolq", f"b {i}?", "Yes." if i % 3 else "no") for i in range(9)]
    answers += [("sums", f"s {i}?", ["4", "four"][i % 2]) for i in range(3)]
    rows = [{"id": text, "question": text, "answer": answer, "kind": kind} for kind, text, answer in answers]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    return QaTask(config.QaTask(**files, fields={"reference": "answer", "task": "kind"}))  # type: ignore[arg-type]


def test_a_field_names_a_questions_kind(qa: QaTask) -> None:
    assert [task_of(q) for q in qa.questions("train")] == ["boolq"] * 9 + ["sums"] * 3


def test_the_majority_answer_is_each_tasks_commonest_as_the_reward_compares(qa: QaTask) -> None:
    answers = majority_answers(qa, qa.questions("train"))
    assert answers == {"boolq": "Yes.", "sums": "4"}
    scored = score_majority(qa, answers, qa.questions("validation"))
    assert scored.rewards == (0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1)
    assert fmean(score_majority(qa, {}, qa.questions("validation")).rewards) == 0.0


def test_texts_that_the_reward_takes_for_the_same_are_counted_together(qa: QaTask) -> None:
    learnt = [asked("1", "four"), asked("2", "Five."), asked("3", "five"), asked("4", "four!"), asked("5", "FOUR")]
    assert majority_answers(qa, learnt) == {"": "four"}


def test_the_majority_of_multiple_choice_is_a_letter_whatever_the_options_say(tmp_path: Path) -> None:
    rows = [
        {"id": f"{i}", "question": f"{i}?", "reference": label, "choices": [f"{i} first", f"{i} second", f"{i} third"]}
        for i, label in enumerate("BAACA")
    ]
    for split in ("train", "validation"):
        written = [json.dumps({**row, "question": f"{split} {row['question']}"}) + "\n" for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(written))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    options = {"prompt": "{question}\n{choices}", "fields": {"choices": "choices"}}
    task = QaTask(config.QaTask.model_validate({**files, **options, "reward": {"type": "multiple_choice"}}))
    answers = majority_answers(task, task.questions("train"))
    assert answers == {"": "A"}
    assert fmean(score_majority(task, answers, task.questions("validation")).rewards) == 0.6


QUESTIONS = [asked("a", "", "x"), asked("b", "", "x"), asked("c", "", "y"), asked("d", "", "y")]
FROZEN = {("m",): (1.0, 1.0, 0.0, 0.0), ("n",): (0.0, 0.0, 1.0, 0.5)}


def test_best_per_task_is_chosen_on_some_questions_and_measured_on_others() -> None:
    chosen = best_per_task(QUESTIONS, FROZEN)
    assert chosen == {"x": ("m",), "y": ("n",), "": ("m",)}
    other = [asked("e", "", "y"), asked("f", "", "x"), asked("g", "", "new")]
    rewards = {("m",): (0.1, 0.2, 0.3), ("n",): (0.4, 0.5, 0.6)}
    assert per_task(chosen, other, rewards) == [0.4, 0.2, 0.3]


def test_independent_answerers_of_zeros_and_ones_fail_together_by_chance_alone() -> None:
    generator = np.random.default_rng(0)
    rewards = (generator.random((3, 60)) < 0.4).astype(float)
    rates = rewards.mean(1)
    np.testing.assert_allclose(independent(rewards, [""] * 60), 1 - np.prod(1 - rates))


def test_independent_answerers_have_their_own_rates_on_each_task() -> None:
    rewards = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    np.testing.assert_allclose(independent(rewards, ["x", "x", "y", "y"]), [1.0, 1.0, 0.5, 0.5])


def test_independent_draws_of_any_rewards_are_the_mean_over_all_ways_to_draw() -> None:
    rewards = np.round(np.random.default_rng(1).random((3, 4)), 2)
    every = [max(drawn) for drawn in itertools.product(*rewards.tolist())]
    np.testing.assert_allclose(independent(rewards, [""] * 4), fmean(every))


def test_one_answerer_alone_has_its_mean() -> None:
    np.testing.assert_allclose(independent(np.array([[0.25, 0.75, 0.5]]), [""] * 3), 0.5)


def test_examples_come_before_the_question_in_turn_after_what_the_system_says(qa: QaTask) -> None:
    shown = WithExamples(qa, qa.questions("train"), 2)
    question = qa.questions("validation")[-1]
    turn = shown.turn(Episode(question, ("m",)))
    assert turn is not None
    assert [m.role for m in turn.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert all(m.content in ("4", "four") for m in turn.messages if m.role == "assistant"), "of the question's own kind"
    assert turn.messages[-1].content == qa.turn(Episode(question, ("m",))).messages[-1].content  # type: ignore[union-attr]


def test_examples_are_answered_training_questions_the_same_each_time_and_more_of_them_begin_with_the_fewer(
    qa: QaTask,
) -> None:
    question = qa.questions("validation")[0]

    def prompt(count: int) -> list[str]:
        turn = WithExamples(qa, qa.questions("train"), count).turn(Episode(question, ("m",)))
        assert turn is not None
        return [m.content for m in turn.messages[1:-1]]

    assert prompt(3) == prompt(3)
    assert prompt(3)[:4] == prompt(2)
    references = {q.text: q.reference for q in qa.questions("train")}
    pairs = list(zip(prompt(3)[::2], prompt(3)[1::2], strict=True))
    assert len(pairs) == 3
    for prompted, answer in pairs:
        assert answer == next(reference for text, reference in references.items() if text in prompted)


def test_an_episode_that_is_over_needs_no_examples() -> None:
    task = NumberTask()
    shown = WithExamples(task, [asked("1", "1"), asked("2", "2")], 1)
    engine = ScriptedEngine({"a": {"1": "1", "2": "1"}})  # which goes by the first message
    (question,) = [asked("7", "1")]
    scored = asyncio.run(score_assignment(engine, shown, [question], ("a",), SamplingConfig(max_new_tokens=2)))
    assert scored.rewards == (1.0,)
    assert [len(r.messages) for r in engine.requests] == [3]


def _of(*sources: dict[str, str]) -> Experiment:
    names = [{"name": f"c{i}", "source": source} for i, source in enumerate(sources)]
    return a_study(experiment={"candidates": names}).experiment


def test_models_of_the_zoo_and_dialogues_take_no_examples() -> None:
    both = _of({"type": "zoo", "name": "adder"}, {"type": "path", "path": "/m"})
    assert takes_examples(NumberTask(), both) == ["c1"]
    assert takes_examples(NumberTask(2), both) == []


def test_a_reward_of_every_question_needs_every_assignment(qa: QaTask) -> None:
    rewards: Sequence[float] = per_task({"": ("m",)}, QUESTIONS, FROZEN)
    assert rewards == list(FROZEN["m",])
