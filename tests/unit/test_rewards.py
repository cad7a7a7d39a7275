"""Rewards as a study names them: what is read, what is paid, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from qa_tasks import CHOICE, failure, paid, played, row, task

from haps_search.config.rewards import ChoiceReward
from haps_search.tasks.task import earned
from haps_search.types import Episode, Question


def earns(folder: Path, text: str, reference: Any, reward: dict[str, Any]) -> float:
    qa = task(folder, row(reference=reference), reward=reward)
    return paid(qa.questions("train")[0], qa, text)


@pytest.mark.parametrize(
    ("reward", "text", "reference", "worth"),
    [
        ({"type": "exact"}, "-5", "5", 0.0),
        ({"type": "exact", "normaliser": "v1"}, "-5", "5", 1.0),
        ({"type": "exact", "normaliser": "squad"}, "-5", "5", 1.0),
        ({"type": "exact"}, "The answer is **Paris**.", "Paris", 1.0),
        ({"type": "exact", "answer": "whole"}, "The answer is Paris.", "Paris", 0.0),
        ({"type": "exact", "normaliser": "squad"}, "The answer is Paris.", "Paris", 0.0),
        ({"type": "exact"}, "<think>Rome?</think>Paris", "Paris", 1.0),
        ({"type": "exact", "normaliser": "v1"}, "<think>Rome?</think>Paris", "Paris", 0.0),
        ({"type": "f1"}, "x>0", "x<0", 0.0),
        ({"type": "f1", "normaliser": "squad"}, "yes it is", "yes", 0.5),
        ({"type": "f1", "normaliser": "v1"}, "yes it is", "yes", 0.0),
        ({"type": "regex", "pattern": r"#### *(-?\d+)"}, "so #### -5", "5", 0.0),
        ({"type": "regex", "pattern": r"#### *(-?\d+)", "normaliser": "v1"}, "so #### -5", "5", 1.0),
        ({"type": "contains"}, "I would say it is the Kaal.", "Kaal", 1.0),
        ({"type": "contains", "max_words": 3}, "I would say it is the Kaal.", "Kaal", 0.0),
        ({"type": "numeric"}, "That makes 1,000 g.", "1 kg", 1.0),
        ({"type": "numeric", "tolerance": 0.1}, "95", "100", 1.0),
        ({"type": "numeric"}, "That makes 42.", 42, 1.0),
        ({"type": "numeric"}, "So 1/4.", 0.25, 1.0),
    ],
)
def test_what_is_paid(tmp_path: Path, reward: dict[str, Any], text: str, reference: Any, worth: float) -> None:
    assert earns(tmp_path, text, reference, reward) == worth


@pytest.mark.parametrize(
    ("reward", "text", "references", "worth"),
    [
        ({"type": "exact"}, "NYC", ["New York City", "NYC"], 1.0),
        ({"type": "f1"}, "New York", ["NYC", "New York City"], 0.8),
        ({"type": "f1", "normaliser": "squad"}, "New York", ["NYC", "New York City"], 0.8),
        ({"type": "contains"}, "It is NYC.", ["New York City", "NYC"], 1.0),
        ({"type": "numeric"}, "0.5", ["1/3", "1/2"], 1.0),
        ({"type": "exact"}, "Boston", ["New York City", "NYC"], 0.0),
    ],
)
def test_the_best_of_several_references_counts(
    tmp_path: Path, reward: dict[str, Any], text: str, references: list[str], worth: float
) -> None:
    qa = task(tmp_path, row(reference=references), reward=reward)
    question = qa.questions("train")[0]
    assert question.references == tuple(references)
    assert paid(question, qa, text) == pytest.approx(worth)


def test_exact_match_beside_f1_knows_all_references(tmp_path: Path) -> None:
    qa = task(tmp_path, row(reference=["New York City", "NYC"]))
    question = qa.questions("train")[0]
    assert qa.measures(played(question, qa, "NYC")) == {"exact_match": 1.0}


def test_a_list_of_references_names_the_one_that_is_wrong(tmp_path: Path) -> None:
    assert '`reference[1]`: got "", needs text' in failure(tmp_path, row(reference=["a", ""]))
    assert "`reference`: got []" in failure(tmp_path, row(reference=[]))


def _choice(folder: Path, answer: Any, options: list[str], **reward: Any) -> Question:
    settings = {**CHOICE, "reward": {"type": "multiple_choice", **reward}}
    return task(folder, row(reference=answer, options=options), **settings).questions("train")[0]


def test_a_label_is_not_taken_for_the_option_of_that_text(tmp_path: Path) -> None:
    grades = ["B", "A", "C"]
    assert _choice(tmp_path, "B", grades).reference == "B"
    assert _choice(tmp_path, "B", grades, reference="text").reference == "A"
    assert _choice(tmp_path, "B", grades, normaliser="v1").reference == "A"


def test_numbers_that_count_are_declared(tmp_path: Path) -> None:
    options = ["apple", "banana", "cherry"]
    assert _choice(tmp_path, 1, options, reference="zero_based").reference == "B"
    assert _choice(tmp_path, "1", options, reference="one_based").reference == "A"
    settings = {**CHOICE, "reward": {"type": "multiple_choice"}}
    assert "got 1, needs text, or `task.reward.reference: zero_based` or `one_based`" in failure(
        tmp_path, row(reference=1, options=options), **settings
    )
    settings["reward"]["reference"] = "zero_based"
    assert 'got "3", needs one of the choices or A to C' in failure(
        tmp_path, row(reference=3, options=options), **settings
    )
    assert "got true" in failure(tmp_path, row(reference=True, options=options), **settings)


def test_options_that_differ_by_a_sign(tmp_path: Path) -> None:
    qa = task(tmp_path, row(reference="1", options=["-1", "1"]), **CHOICE)
    question = qa.questions("train")[0]
    assert question.reference == "B"
    assert [paid(question, qa, text) for text in ("1", "-1", "\u22121", "B")] == [1.0, 0.0, 0.0, 1.0]


def test_options_are_shown_under_the_labels_that_are_read(tmp_path: Path) -> None:
    settings = {**CHOICE, "reward": {"type": "multiple_choice", "labels": "numbers"}}
    qa = task(tmp_path, row(reference="banana", options=["apple", "banana"]), **settings)
    question = qa.questions("train")[0]
    turn = qa.turn(Episode(question, ("m",)))
    assert turn is not None
    assert turn.messages[-1].content == "What is 0?\n1. apple\n2. banana"
    assert [paid(question, qa, text) for text in ("2", "Option 1", "banana")] == [1.0, 0.0, 1.0]
    own = _choice(tmp_path, "no", ["wrong", "right"], labels=["no", "yes"])
    assert own.reference == "no"
    short = {**CHOICE, "reward": {"type": "multiple_choice", "labels": ["x", "y"]}}
    assert "3 choices, and task.reward.labels has 2" in failure(
        tmp_path, row(reference="a", options=["a", "b", "c"]), **short
    )


def test_v1_knows_no_labels() -> None:
    with pytest.raises(ValidationError, match="v1 knows neither labels nor reference"):
        ChoiceReward(normaliser="v1", labels="numbers")


def test_several_answers_earn_nothing_while_learning(tmp_path: Path) -> None:
    qa = task(tmp_path, row(reference="B", options=["apple", "banana"]), **CHOICE)
    question = qa.questions("train")[0]
    for text, measured, learnt in (("Answer: A. Answer: B.", 1.0, 0.0), ("Answer: B.", 1.0, 1.0), ("A or B", 0.0, 0.0)):
        episode = played(question, qa, text)
        assert (earned(qa, episode), earned(qa, episode, learning=True)) == (measured, learnt)


def test_contains_without_a_bound_is_warned_of(tmp_path: Path) -> None:
    assert any("max_words" in line for line in task(tmp_path, row(), reward={"type": "contains"}).remarks())
    bounded = task(tmp_path, row(), reward={"type": "contains", "max_words": 9})
    assert not any("max_words" in line for line in bounded.remarks())
