"""Routing metrics against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from haps_search.evaluation.intervals import mean_interval, resampled
from haps_search.evaluation.routing_metrics.routes import (
    assignment_means,
    earned,
    filled,
    prices,
    regret,
    route_shares,
    routes,
)
from haps_search.evaluation.routing_metrics.summary import (
    gain_at_best,
    gap_at_oracle,
    gap_closed,
    macro_mean,
    micro_mean,
    summarise,
)

NAN = math.nan
REWARDS = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, NAN], [0.2, 0.2, 0.8]])


def test_the_largest_score_takes_the_question_and_equals_share_it() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 9.0], [5.0, 5.0, 5.0]])
    found = routes(scores, REWARDS)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(earned(found, REWARDS), [1.0, 1.0, 0.4])
    np.testing.assert_allclose(route_shares(found), [4 / 9, 4 / 9, 1 / 9])
    np.testing.assert_allclose(regret(earned(found, REWARDS), REWARDS), [0.0, 0.0, 0.4])


def test_cost_moves_routes_at_its_weight() -> None:
    """Assignment 0 scores 0.4 more and costs 2 more: it goes at a weight of 0.2."""
    scores, rewards, known = np.array([[0.9, 0.5]]), np.array([[1.0, 0.0]]), np.array([3.0, 1.0])
    assert routes(scores, rewards, known, 0.19).tolist() == [[1, 0]]
    assert routes(scores, rewards, known, 0.21).tolist() == [[0, 1]]
    assert routes(scores, rewards, known).tolist() == [[1, 0]]


@pytest.mark.parametrize("scores", [np.ones((3, 2)), np.full((3, 3), NAN), np.full((3, 3), -math.inf)])
def test_scores_must_be_finite_and_one_per_cell(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"needs finite ones of shape \(3, 3\)"):
        routes(scores, REWARDS)


def test_means_of_columns_leave_missing_cells_out() -> None:
    cells = np.array([[1.0, NAN, NAN], [2.0, 4.0, NAN]], np.float32)
    np.testing.assert_allclose(assignment_means(cells), [1.5, 4.0, NAN])
    np.testing.assert_allclose(prices(cells), [1.5, 4.0, 4.0])
    np.testing.assert_allclose(filled(cells, prices(cells)), [[1.0, 4.0, 4.0], [2.0, 4.0, 4.0]])
    with pytest.raises(ValueError, match="one at least"):
        prices(cells[:, 2:])


def test_float32_columns_are_added_exactly() -> None:
    """A million cells of 0.1: single precision is off in the fourth digit when it adds them one by one."""
    tenth = float(np.float32(0.1))
    assert assignment_means(np.full((10**6, 2), tenth, np.float32))[0] == pytest.approx(tenth, rel=1e-12)


def test_micro_counts_questions_and_macro_tasks() -> None:
    values, tasks = np.array([1.0, 0.0, 0.5, 1.0]), ("a", "a", "a", "b")
    assert micro_mean(values) == 0.625
    assert macro_mean(values, tasks) == 0.75


def test_gaps_by_hand() -> None:
    assert gap_closed(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert gap_closed(0.5, 0.6, 0.8) == pytest.approx(-0.5)
    assert gain_at_best(0.66, 0.6) == pytest.approx(0.1)
    assert gap_at_oracle(0.6, 0.8) == pytest.approx(0.25)


def test_what_is_not_defined_is_not_a_number() -> None:
    assert all(map(math.isnan, (gap_closed(0.8, 0.8, 0.8), gain_at_best(0.1, 0.0), gap_at_oracle(0.0, 0.0))))


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haps_search.evaluation.intervals.DRAWS", 400)


def test_resampling_a_mean_is_the_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).beta(2, 5, 200)
    found, known = resampled(lambda rows: float(values[rows].mean()), 200), mean_interval(values.tolist())
    assert (found.mean, found.count) == (known.mean, 200)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.004)


@pytest.mark.usefixtures("fewer_draws")
def test_drawing_within_tasks_keeps_their_sizes() -> None:
    tasks = ("a",) * 3 + ("b",) * 4 + ("c",)
    sizes: set[tuple[int, ...]] = set()

    def statistic(rows: np.ndarray) -> float:
        sizes.add(tuple(np.bincount(np.digitize(rows, [3, 7]))))
        return float(rows.mean())

    found = resampled(statistic, 8, tasks=tasks)
    assert sizes == {(3, 4, 1)}
    assert found.low < found.mean == 3.5 < found.high


@pytest.mark.usefixtures("fewer_draws")
def test_undefined_draws_are_left_out() -> None:
    found = resampled(lambda rows: NAN if (rows == 0).any() else float(rows.mean()), 4)
    assert math.isnan(found.mean)
    assert 1.0 <= found.low < found.high <= 3.0
    nothing = resampled(lambda rows: NAN, 4)
    assert math.isnan(nothing.low)
    with pytest.raises(ValueError, match="at least one question"):
        resampled(lambda rows: 0.0, 0)


@pytest.mark.usefixtures("fewer_draws")
def test_a_summary_by_hand() -> None:
    """Task a: 2 questions, task b: 1. Macro means: router 0.75, single 0.5, oracle 1."""
    router, single, oracle = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.0, 0.5]), np.array([1.0, 1.0, 1.0])
    found = summarise(router, single, oracle, ("a", "a", "b"))
    assert found.micro.mean == pytest.approx(2 / 3)
    assert found.macro.mean == pytest.approx(0.75)
    assert found.over_best_single.mean == pytest.approx(1 / 6)
    assert found.gap_closed.mean == pytest.approx((2 / 3 - 0.5) / 0.5)
    assert found.gain_at_best.mean == pytest.approx(0.5)
    assert found.gap_at_oracle.mean == pytest.approx(0.25)
    assert found.regret.mean == pytest.approx(1 / 3)
    # Macro is drawn within tasks: a is always 0.5 and b always 1.
    assert (found.macro.low, found.macro.high) == (0.75, 0.75)
