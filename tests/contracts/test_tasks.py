"""What every task promises, whoever implements it (see haps_search/tasks/task.py)."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from haps_search.config.tasks import QaFields, QaTask, SkillsTask, TaskConfig
from haps_search.tasks.build import TASKS, build_task
from haps_search.tasks.task import Task
from haps_search.types import Episode, Question, Response, Split, Utterance

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
TEXTS = ("", "  \n", "42", "yes", "B", "the Kaal district", "#12 {question} \x00")
TINY = str(Path(__file__).parents[1] / "assets" / "hotpotqa_tiny.jsonl")

CONFIGS: dict[str, TaskConfig] = {
    "skills": SkillsTask(sizes={"train": 30, "validation": 20, "test": 20}),
    "qa": QaTask(
        train=TINY,
        validation=TINY,
        test=TINY,
        fields=QaFields(id="_id", reference="answer", context="context", supporting="supporting_facts"),
    ),
}


@pytest.fixture(params=sorted(TASKS))
def config(request: pytest.FixtureRequest) -> TaskConfig:
    return CONFIGS[request.param]


@pytest.fixture
def task(config: TaskConfig) -> Task:
    return build_task(config)


def said(task: Task, question: Question, text: str) -> Episode:
    role = task.roles[0].name
    response = Response(text, (1,), -1.0, 1, 1)
    return Episode(question, ("m",), (Utterance(role, "m", response, task.parse(question, role, text)),))


def test_a_task_says_who_it_is(task: Task, config: TaskConfig) -> None:
    assert task.name == config.type
    assert task.description.strip()
    names = [role.name for role in task.roles]
    assert names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("split", SPLITS)
def test_questions_come_in_a_fixed_order(task: Task, config: TaskConfig, split: Split) -> None:
    first = list(task.questions(split))
    assert first
    assert first == list(task.questions(split)) == list(build_task(config).questions(split))
    assert all(question.text.strip() and question.reference.strip() for question in first)


def test_ids_are_unique_within_and_across_splits(task: Task) -> None:
    ids = [question.id for split in SPLITS for question in task.questions(split)]
    assert len(set(ids)) == len(ids)


def test_turns_go_to_a_role_and_end(task: Task) -> None:
    question = task.questions("train")[0]
    assignment = tuple("m" for _ in task.roles)
    utterances: tuple[Utterance, ...] = ()
    for _ in range(10):
        turn = task.turn(Episode(question, assignment, utterances))
        if turn is None:
            break
        assert turn.role in {role.name for role in task.roles}
        assert turn.messages
        assert turn.messages[-1].role == "user"
        response = Response("x", (1,), -1.0, 1, 1)
        utterances += (Utterance(turn.role, "m", response, task.parse(question, turn.role, "x")),)
    assert utterances
    assert task.turn(Episode(question, assignment, utterances)) is None


def test_rewards_lie_in_the_unit_interval(task: Task) -> None:
    for question, text in itertools.product(task.questions("train")[:6], TEXTS):
        assert 0.0 <= task.reward(said(task, question, text)) <= 1.0


def test_the_reference_earns_everything_and_silence_nothing(task: Task) -> None:
    for question in task.questions("validation"):
        assert task.reward(said(task, question, question.reference)) == 1.0
        assert task.reward(said(task, question, "")) == 0.0


@pytest.mark.parametrize("text", TEXTS)
def test_a_failed_parse_is_a_value_with_a_reason(task: Task, text: str) -> None:
    parsed = task.parse(task.questions("train")[0], task.roles[0].name, text)
    assert (parsed.answer is None) == (parsed.failure is not None)
    if not text.strip():
        assert parsed.answer is None
    else:
        assert parsed.answer is None or parsed.answer in text
