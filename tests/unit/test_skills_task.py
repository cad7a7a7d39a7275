"""The skills task: splits that never meet, questions in balance, rewards that look at the format."""

from collections import Counter

import pytest

from haps_search.config import tasks as config
from haps_search.errors import ConfigError
from haps_search.tasks.skills import (
    SPLITS,
    Problem,
    SkillsTask,
    every,
    formatted,
    question,
    same_content,
    space_size,
    split_of,
)
from haps_search.types import Completion, Episode, Message, Parsed, Question, Sampled


def _task(**settings: object) -> SkillsTask:
    return SkillsTask(config.SkillsTask.model_validate(settings))


def _problem(asked: Question) -> str:
    return asked.text.split("] ")[1]


def _played(task: SkillsTask, asked: Question, text: str) -> Episode:
    said = Completion("answerer", "adder", (), Sampled(text, (), (), 0, 0), task.parse(asked, "answerer", text))
    return Episode(asked, ("adder",), (said,))


@pytest.mark.parametrize(
    ("problem", "plain", "marked"),
    [
        (Problem("add", "58+67"), "125", "#125"),
        (Problem("reverse", "kado"), "odak", "ODAK"),
        (Problem("sort", "kado"), "adko", "ADKO"),
    ],
)
def test_reward_asks_for_the_format_of_the_tag(problem: Problem, plain: str, marked: str) -> None:
    task = _task()
    in_x, in_y = question("a", problem, "x"), question("b", problem, "y")
    assert in_x.text == f"[x] {problem.skill} {problem.body}="
    assert (in_x.reference, in_y.reference) == (plain, marked)
    assert [task.reward(_played(task, q, t)) for q in (in_x, in_y) for t in (plain, marked)] == [1, 0, 0, 1]
    assert task.reward(_played(task, in_x, f" {plain}\n")) == 1.0
    assert all(same_content(q, t) for q in (in_x, in_y) for t in (plain, marked))
    assert not same_content(in_x, plain[1:])
    assert not same_content(in_y, "?")


def test_mixed_case_is_no_format() -> None:
    assert not same_content(question("a", Problem("reverse", "kado"), "x"), "oDaK")


def test_one_turn_by_the_answerer() -> None:
    task = _task()
    asked = task.questions("train")[0]
    turn = task.turn(Episode(asked, ("adder",)))
    assert turn is not None
    assert turn.messages == (Message("user", asked.text),)
    assert turn.role == task.roles[0].name == "answerer"
    assert task.turn(_played(task, asked, "46")) is None


def test_empty_text_is_a_failure_with_a_reason_and_earns_nothing() -> None:
    task = _task()
    assert task.parse(task.questions("train")[0], "answerer", " \n") == Parsed(None, "the text is empty")
    assert task.reward(_played(task, task.questions("train")[0], "")) == 0.0


def test_splits_never_share_a_problem_even_across_seeds() -> None:
    seen = {split: {_problem(q) for seed in (0, 1) for q in _task(seed=seed).questions(split)} for split in SPLITS}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_buckets_are_eight_one_one_and_blind_to_the_order_of_operands() -> None:
    problems = list(every("add", config.SkillsTask()))
    assert len(problems) == space_size("add", config.SkillsTask()) == 10_000
    shares = Counter(split_of(problem) for problem in problems)
    assert shares["train"] == pytest.approx(8_000, abs=200)
    assert shares["test"] == pytest.approx(1_000, abs=150)
    assert split_of(Problem("add", "12+34")) == split_of(Problem("add", "34+12"))
    # Fixed for ever: the shipped weights were trained on the train bucket.
    known = [Problem("reverse", "kado"), Problem("add", "21+34"), Problem("sort", "abcde")]
    assert [split_of(problem) for problem in known] == ["train", "validation", "test"]


def test_the_same_settings_give_the_same_questions_and_another_seed_gives_others() -> None:
    first, again, other = _task(), _task(), _task(seed=1)
    assert first.questions("validation") == again.questions("validation")
    assert first.questions("validation") is first.questions("validation")
    assert first.questions("validation") != other.questions("validation")


@pytest.mark.parametrize("split", SPLITS)
def test_no_problem_twice_and_skills_and_tags_in_balance(split: str) -> None:
    questions = _task().questions(split)  # type: ignore[arg-type]
    assert len({_problem(q) for q in questions}) == len(questions) == config.SkillsTask().sizes[split]  # type: ignore[index]
    counts = Counter((q.attributes["skill"], q.attributes["tag"]) for q in questions)
    assert len(counts) == 6
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(q.text.startswith(f"[{q.attributes['tag']}] {q.attributes['skill']} ") for q in questions)
    assert max(len(q.text) for q in questions) <= 22


def test_a_longer_split_starts_with_the_shorter_one() -> None:
    short, long = (_task(sizes={"validation": size}).questions("validation") for size in (60, 600))
    assert long[:60] == short


def test_difficulty_is_settable() -> None:
    task = _task(digits=4, letters=(6, 7), sizes={"train": 300})
    bodies = {"add": [], "reverse": [], "sort": []}  # type: ignore[var-annotated]
    for asked in task.questions("train"):
        bodies[asked.attributes["skill"]].append(_problem(asked).split(" ")[1].removesuffix("="))
    assert max(len(number) for body in bodies["add"] for number in body.split("+")) == 4
    assert {len(word) for word in bodies["reverse"] + bodies["sort"]} == {6, 7}


def test_too_small_a_space_is_refused_with_what_there_is() -> None:
    there = sum(split_of(p) == "validation" for p in every("add", config.SkillsTask(digits=1)))
    with pytest.raises(ConfigError) as caught:
        _task(digits=1, sizes={"train": 30, "validation": 1000})
    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert problem.startswith("task.sizes.validation")
    assert "334 different problems of `add`" in problem
    assert f"only {there} in this split" in problem
    assert "raise task.digits" in problem


def test_the_whole_of_a_small_space_can_be_asked_for() -> None:
    settings = config.SkillsTask(digits=1, letters=(2, 2))
    there = sum(split_of(p) == "test" for p in every("add", settings))
    questions = _task(digits=1, letters=(2, 2), sizes={"test": 3 * there}).questions("test")
    assert len({_problem(q) for q in questions}) == 3 * there


def test_a_split_without_a_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="no size for the test split"):
        _task(sizes={"train": 30}).questions("test")


def test_formats_of_zero() -> None:
    assert (formatted("0", "x"), formatted("0", "y")) == ("0", "#0")
