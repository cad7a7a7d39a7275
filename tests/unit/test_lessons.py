"""Lessons from completions: weights by the formula, and what is left out."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from taught_task import TaughtTask, said_table

from haps_search.config.learning import ReferencesConfig
from haps_search.errors import ConfigError, DataError
from haps_search.learning.lessons import Lessons
from haps_search.learning.references import teaching
from haps_search.types import Question

ASKED = Question("1", "what?", "right", other_references=("also",))
BARE = Question("2", "how?", "")


def lessons(path: Path, said: list[tuple[Question, str, str, float]], **settings: object) -> Lessons:
    said_table(path, said)
    return Lessons(ReferencesConfig(completions=str(path), **settings))  # type: ignore[arg-type]


def test_texts_weigh_by_what_they_earned(tmp_path: Path) -> None:
    """Each distinct one once, references at reward 1 whatever a completion of the same text earned."""
    said = [
        (ASKED, "a", "wrong", 0.0), (ASKED, "b", "nearly", 0.5), (ASKED, "a", "nearly", 0.5), (ASKED, "b", "also", 0.8),
        (ASKED, "a", "", 0.9), (BARE, "a", "x", 0.25), (BARE, "b", "y", 0.75), (BARE, "b", "y", 0.25),
    ]  # fmt: skip
    found = lessons(tmp_path / "t", said, temperature=0.5)
    powers = {"right": math.exp(2), "also": math.exp(2), "wrong": 1.0, "nearly": math.exp(1)}
    total = sum(powers.values())
    assert dict(found.of(ASKED, "a")) == {
        text: pytest.approx(power / total, rel=1e-12) for text, power in powers.items()
    }
    two = math.exp(0.5), math.exp(1.0)
    assert dict(found.of(BARE, "a")) == {"x": pytest.approx(two[0] / sum(two)), "y": pytest.approx(two[1] / sum(two))}
    assert found.of(ASKED, "b") == found.of(ASKED, "a")


def test_a_candidate_may_be_taught_its_own_completions_alone(tmp_path: Path) -> None:
    said = [(BARE, "a", "x", 0.0), (BARE, "b", "y", 1.0), (BARE, "b", "z", 0.0)]
    found = lessons(tmp_path / "t", said, completions_of="own", temperature=1.0)
    assert found.of(BARE, "a") == ()
    assert dict(found.of(BARE, "b")) == {
        "y": pytest.approx(math.e / (1 + math.e)),
        "z": pytest.approx(1 / (1 + math.e)),
    }


def test_questions_whose_rewards_are_all_equal_are_left_out(tmp_path: Path) -> None:
    said = [(BARE, "a", "x", 0.5), (BARE, "a", "y", 0.5), (ASKED, "a", "right", 1.0), (ASKED, "a", "said so", 1.0)]
    found = lessons(tmp_path / "t", said)
    assert found.of(BARE, "a") == found.of(ASKED, "a") == ()
    rounded = lessons(tmp_path / "u", [(BARE, "a", text, 0.4) for text in "xxxy"])  # 0.4 three times is not 3 * 0.4
    assert rounded.of(BARE, "a") == ()
    elsewhere = Question("3", "why?", "so", other_references=("thus",))
    assert found.of(elsewhere, "a") == (("so", 0.5), ("thus", 0.5))
    assert found.of(Question("1", "another text", "so"), "a") == (("so", 1.0),)  # ids alone name no question


def test_small_temperatures_do_not_overflow(tmp_path: Path) -> None:
    found = lessons(tmp_path / "t", [(BARE, "a", "x", 1000.0), (BARE, "a", "y", 0.0)], temperature=1e-3)
    assert found.of(BARE, "a") == (("x", 1.0),)


def test_a_table_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    first = lessons(tmp_path / "t", [(BARE, "a", "x", 1.0), (BARE, "a", "y", 0.0)], temperature=1.0)
    assert [text for text, _ in first.of(BARE, "a")] == ["x", "y"]
    again = lessons(tmp_path / "t", [(BARE, "a", "longer", 1.0), (BARE, "a", "y", 0.0)], temperature=1.0)
    os.utime(tmp_path / "t", ns=(1, 1))
    again = lessons(tmp_path / "t", [(BARE, "a", "longer", 1.0), (BARE, "a", "y", 0.0)], temperature=1.0)
    assert [text for text, _ in again.of(BARE, "a")] == ["longer", "y"]


def test_what_can_teach_nothing_is_said_first(tmp_path: Path) -> None:
    task, names = TaughtTask(), ("a",)
    asked = task.questions("train")
    said_table(tmp_path / "t", [(BARE, "a", "x", 1.0), (BARE, "a", "y", 0.0)])
    config = ReferencesConfig(completions=str(tmp_path / "t"))
    assert teaching(task, asked, names, config) == list(asked)  # their references
    bare = [Question(q.id, q.text, "") for q in asked]
    with pytest.raises(ConfigError, match="no completions of training questions of task taught that earned more"):
        teaching(task, bare, names, config)
    said_table(tmp_path / "u", [(bare[2], "a", "x", 1.0), (bare[2], "a", "y", 0.0), (bare[3], "a", "x", 1.0)])
    assert teaching(task, bare, names, ReferencesConfig(completions=str(tmp_path / "u"))) == [bare[2]]
    with pytest.raises(DataError, match="no such file; `haps collect"):
        teaching(task, bare, names, ReferencesConfig(completions=str(tmp_path / "none")))
