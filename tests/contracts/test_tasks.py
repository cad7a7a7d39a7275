"""What every task promises, whoever implements it (see haps_search/tasks/task.py)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from haps_search.config.hotpotqa import HotpotqaTask
from haps_search.config.tables import TableConfig
from haps_search.config.tasks import QaFields, QaTask, ReplayTask, SkillsTask, TaskConfig
from haps_search.tasks.build import TASKS, build_task
from haps_search.tasks.task import Task
from haps_search.types import Completion, Episode, Question, Sampled, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
TEXTS = ("", "  \n", "42", "yes", "B", "the Kaal district", "#12 {question} \x00")
TABLE = str(Path(__file__).parents[1] / "assets" / "replay_tiny.jsonl")
TINY = str(Path(__file__).parents[1] / "assets" / "hotpotqa_tiny.jsonl")

CONFIGS: dict[str, TaskConfig] = {
    "skills": SkillsTask(sizes={"train": 30, "validation": 20, "test": 20}),
    "qa": QaTask(
        train=TINY,
        validation=TINY,
        test=TINY,
        fields=QaFields(id="_id", reference="answer", context="context", supporting="supporting_facts"),
    ),
    "hotpotqa": HotpotqaTask(train=TINY, validation=TINY, test=TINY, max_student_turns=4),
    "replay": ReplayTask(table=TableConfig(file=TABLE)),
}
ANSWERS = {"hotpotqa": "Finish[{}]"}
"""How an answer is written, where it is not the text itself."""


@pytest.fixture(params=sorted(TASKS))
def config(request: pytest.FixtureRequest) -> TaskConfig:
    return CONFIGS[request.param]


@pytest.fixture
def task(config: TaskConfig) -> Task:
    return build_task(config)


def said(task: Task, question: Question, text: str) -> Episode:
    role = task.roles[0].name
    sampled = Sampled(text, (1,), (-1.0,), 1, 1)
    return Episode(question, ("m",), (Completion(role, "m", (), sampled, task.parse(question, role, text)),))


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
    completions: tuple[Completion, ...] = ()
    for _ in range(10):
        turn = task.turn(Episode(question, assignment, completions))
        if turn is None:
            break
        assert turn.role in {role.name for role in task.roles}
        assert turn.messages
        assert turn.messages[-1].role == "user"
        sampled = Sampled("x", (1,), (-1.0,), 1, 1)
        completions += (Completion(turn.role, "m", turn.messages, sampled, task.parse(question, turn.role, "x")),)
    assert completions
    assert task.turn(Episode(question, assignment, completions)) is None


def test_rewards_lie_in_the_unit_interval(task: Task) -> None:
    for question, text in itertools.product(task.questions("train")[:6], TEXTS):
        assert 0.0 <= task.reward(said(task, question, text)) <= 1.0


def test_the_reference_earns_everything_and_silence_nothing(task: Task) -> None:
    for question in task.questions("validation"):
        written = ANSWERS.get(task.name, "{}").format(question.reference)
        assert task.reward(said(task, question, written)) == 1.0
        assert task.reward(said(task, question, "")) == 0.0


@pytest.mark.parametrize("text", TEXTS)
def test_a_failed_parse_is_a_value_with_a_reason(task: Task, text: str) -> None:
    parsed = task.parse(task.questions("train")[0], task.roles[0].name, text)
    assert (parsed.answer is None) == (parsed.failure is not None)
    if not text.strip():
        assert parsed.answer is None
    else:
        assert parsed.answer is None or parsed.answer in text


def test_measures_are_finite_and_have_the_same_names_for_every_episode(task: Task) -> None:
    found = [task.measures(said(task, q, text)) for q, text in itertools.product(task.questions("train")[:3], TEXTS)]
    assert len({frozenset(measured) for measured in found}) == 1
    assert all(math.isfinite(value) for measured in found for value in measured.values())


def test_a_turn_follows_from_the_episode_alone(task: Task, config: TaskConfig) -> None:
    """A task that has played another episode, and one that has not, go on alike: nothing is remembered."""
    first, second = task.questions("train")[:2]
    for text in TEXTS:
        task.turn(said(task, second, text))
        assert task.turn(said(task, first, text)) == build_task(config).turn(said(task, first, text))
