"""The comparison table, with candidates that say what the test wrote down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from made import NumberTask, ScriptedEngine, question

from haps_search.config.run import SamplingConfig
from haps_search.errors import ConfigError
from haps_search.evaluation.comparison import Cost, Row, comparison, row_of, score_frozen
from haps_search.evaluation.intervals import Interval, mean_interval, paired_interval, tango, two_way_interval
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
    oracles = ["per-query oracle", "independent answerers"]
    assert [row.label for row in rows] == ["random", "always a", "always b", *oracles, "static", "joint"]
    others = {"best per task": (1.0, 0.5, 0.0)}
    rows = comparison(FROZEN, {"joint": JOINT}, "joint", others)
    assert [row.label for row in rows] == ["random", "always a", "always b", "best per task", *oracles, "joint"]


def test_independent_answerers_draw_the_questions_that_their_rates_come_from() -> None:
    frozen = {("a",): (1.0, 0.0, 1.0, 0.0) * 10, ("b",): (1.0, 1.0, 0.0, 0.0) * 10}
    rows = by_label(comparison(frozen, {"joint": (1.0, 1.0, 1.0, 0.0) * 10}, "joint", tasks=["x"] * 40))
    row = rows["independent answerers"]
    assert row.reward.mean == pytest.approx(0.75)
    assert 0.55 < row.reward.low < 0.7
    assert 0.8 < row.reward.high < 0.95
    assert row.joint_gain is not None
    assert row.joint_gain.mean == pytest.approx(0.0)
    assert row.joint_gain.low < 0 < row.joint_gain.high


def test_one_candidate_alone_has_nobody_to_be_independent_of() -> None:
    rows = comparison({("a",): (1.0, 0.0)}, {"joint": (1.0, 1.0)}, "joint")
    assert "independent answerers" not in by_label(rows)


def test_several_seeds_are_paired_by_seed_and_resampled_with_the_questions() -> None:
    joint, static = [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    seeds = {"joint": (7, 8), "static": (8, 9)}
    rows = by_label(comparison({}, {"joint": joint, "static": static}, "joint", seeds=seeds))
    common = rows["static"].joint_gain
    assert common is not None
    assert common == paired_interval(joint[1], static[0]), "seed 8 is all that both have"
    assert (rows["static"].seeds, rows["joint"].seeds) == (2, 2)
    assert rows["joint"].reward == two_way_interval(np.array(joint))
    alone = by_label(comparison({}, {"joint": joint, "static": static[0]}, "joint", seeds={"joint": (7, 8)}))
    assert alone["static"].joint_gain == two_way_interval(np.array(joint) - np.array(static[0]))


def test_one_seed_of_zeros_and_ones_has_the_paired_score_interval() -> None:
    joint, other = [1.0] * 48, [1.0] * 47 + [0.0]
    gain = by_label(comparison({}, {"joint": joint, "other": other}, "joint"))["other"].joint_gain
    assert gain is not None
    assert (gain.low, gain.high) == tango(1, 0, 48)
    assert gain.low < 0 < gain.high, "the bootstrap's would end at 0"


def test_a_row_is_read_back_with_its_cost_and_without() -> None:
    row = Row("static", Interval(0.5, 0.4, 0.6, 9), Interval(0.1, 0.0, 0.2, 9), 3, Cost(4, 12.5, 100, 1e9, 2e9, 0.5))
    assert row_of(json.loads(json.dumps(asdict(row)))) == row
    assert row_of({"label": "x", "reward": asdict(row.reward), "joint_gain": None}) == Row("x", row.reward, None)


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
