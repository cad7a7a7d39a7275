"""The comparison table, with candidates that say what the test wrote down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from made import NumberTask, ScriptedEngine, question

from haps_search.config.run import SamplingConfig
from haps_search.errors import ConfigError
from haps_search.evaluation.comparison import Row, comparison, score_frozen
from haps_search.evaluation.intervals import mean_interval, paired_interval
from haps_search.types import Assignment

QUESTIONS = [question(text=text) for text in "xyz"]
TEXTS = {"a": {"x": "1", "y": "0", "z": "0"}, "b": {"x": "0", "y": "0.5", "z": "0"}}
FROZEN = {("a",): (1.0, 0.0, 0.0), ("b",): (0.0, 0.5, 0.0)}
JOINT = (1.0, 0.5, 1.0)
GREEDY = SamplingConfig(max_new_tokens=4)


def frozen(names: Sequence[str], roles: int = 1) -> dict[Assignment, tuple[float, ...]]:
    engine = ScriptedEngine(TEXTS)
    found = asyncio.run(score_frozen(engine, NumberTask(roles), QUESTIONS, names, GREEDY))
    assert all(r.sampling.greedy and r.adapter is None for r in engine.requests)
    assert engine.routed == []
    return {z: scored.rewards for z, scored in found.items()}


def by_label(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.label: row for row in rows}


def test_every_candidate_answers_every_question() -> None:
    assert frozen(["a", "b"]) == FROZEN


def test_every_assignment_of_two_roles_is_played() -> None:
    found = frozen(["a", "b"], roles=2)
    assert list(found) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    assert found["b", "a"] == (1.0, 0.0, 0.0)


def test_too_many_assignments_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"all 81 assignments, at most 64: set sweep\.comparison: false"):
        frozen(["a", "b", "c"], roles=4)


def test_rows_stand_in_the_order_they_are_read() -> None:
    rows = comparison(FROZEN, {"joint": JOINT, "static": (1.0, 0.0, 0.0)}, "joint")
    labels = ["random", "always a", "always b", "per-query oracle", "static", "joint"]
    assert [row.label for row in rows] == labels


def test_random_is_the_exact_expectation_and_the_oracle_the_best_of_each_question() -> None:
    rows = by_label(comparison(FROZEN, {}, "joint"))
    assert rows["random"].reward == mean_interval([0.5, 0.25, 0.0])
    assert rows["per-query oracle"].reward == mean_interval([1.0, 0.5, 0.0])
    assert rows["always b"].reward == mean_interval([0.0, 0.5, 0.0])
    assert max(row.reward.mean for row in rows.values()) == 0.5


def test_the_joint_gain_is_paired_over_questions() -> None:
    rows = by_label(comparison(FROZEN, {"joint": JOINT, "static": (0.5, 0.0, 0.5)}, "joint"))
    assert rows["static"].joint_gain == paired_interval([0.5] * 3, [0.0] * 3)
    assert rows["random"].joint_gain == paired_interval(JOINT, [0.5, 0.25, 0.0])
    assert rows["joint"].joint_gain is None
    assert rows["joint"].reward == mean_interval(JOINT)


def test_without_a_joint_router_nothing_has_a_gain() -> None:
    assert all(row.joint_gain is None for row in comparison(FROZEN, {"static": JOINT}, "joint"))


def test_without_frozen_rewards_the_routers_stand_alone() -> None:
    rows = comparison({}, {"joint": JOINT, "static": (0.5, 0.0, 0.5)}, "joint")
    assert [row.label for row in rows] == ["static", "joint"]


def test_roles_are_listed_in_a_label() -> None:
    rows = comparison({("a", "b"): (1.0,)}, {}, "joint")
    assert rows[1].label == "always a, b"


def test_rewards_of_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        comparison({("a",): (1.0, 0.0), ("b",): (1.0,)}, {}, "joint")
    with pytest.raises(ValueError, match="same questions"):
        comparison(FROZEN, {"joint": (1.0,)}, "joint")
