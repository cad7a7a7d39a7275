"""Cost against quality, and strong against weak, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from haps_search.evaluation.routing_metrics.curve import aiq, aiq0, cost_weights, non_decreasing_hull, sweep
from haps_search.evaluation.routing_metrics.summary import apgr, cpt, recovered

POINTS = np.array([[4.0, 0.9], [1.0, 0.2], [3.0, 0.6], [2.0, 0.5], [2.0, 0.8], [5.0, 0.7]])
"""Hull: (1, 0.2), (2, 0.8), (4, 0.9); 0.6 and 0.5 lie below it, and 0.7 after it."""


def test_the_hull_by_hand() -> None:
    np.testing.assert_allclose(non_decreasing_hull(POINTS), [[1, 0.2], [2, 0.8], [4, 0.9]])


def test_points_on_a_line_and_twins_leave_its_ends() -> None:
    line = np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0], [2.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(non_decreasing_hull(line), [[0, 0], [2, 1]])
    stacked = np.array([[1.0, 0.1], [1.0, 0.5], [2.0, 1.0]])
    np.testing.assert_allclose(non_decreasing_hull(stacked), [[1, 0.5], [2, 1]])


def test_what_costs_more_for_less_is_not_bought() -> None:
    np.testing.assert_allclose(non_decreasing_hull(np.array([[1.0, 0.9], [2.0, 0.5]])), [[1, 0.9]])


def test_a_hull_is_above_its_points_and_concave() -> None:
    points = np.random.default_rng(0).random((200, 2))
    hull = non_decreasing_hull(points)
    assert (np.interp(points[:, 0], hull[:, 0], hull[:, 1]) >= points[:, 1] - 1e-12).all()
    assert (np.diff(np.diff(hull[:, 1]) / np.diff(hull[:, 0])) < 0).all()
    assert (np.diff(hull, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("cost_range", "area", "width"),
    [
        (None, 0.5 + 1.7 + 0.9, 4),  # 1 to 5: trapezoids 0.5 and 1.7, then flat at 0.9
        ((1.0, 4.0), 0.5 + 1.7, 3),
        ((0.0, 5.0), 0.1 + 0.5 + 1.7 + 0.9, 5),  # a triangle from (0, 0) on the left
        ((3.0, 6.0), 0.875 + 2 * 0.9, 3),
        ((0.0, 0.5), 0.025, 0.5),
    ],
)
def test_aiq_by_hand(cost_range: tuple[float, float] | None, area: float, width: float) -> None:
    assert aiq(POINTS, cost_range) == pytest.approx(area / width)


def test_aiq_of_one_point() -> None:
    assert aiq(np.array([[2.0, 0.7]])) == pytest.approx(0.7)
    assert aiq(np.array([[0.0, 0.7]]), (0.0, 3.0)) == pytest.approx(0.7)


@pytest.mark.parametrize("area", [aiq, aiq0])
@pytest.mark.parametrize("cost_range", [(2.0, 1.0), (-1.0, 1.0)])
def test_aiq_needs_a_range(area: Callable[..., float], cost_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= low <= high"):
        area(POINTS, cost_range)


def test_a_cheap_and_bad_point_more_lowers_aiq_and_not_aiq0() -> None:
    """Alone, (2, 1) is reached in a line from (0, 0). Beside (1, 0.1) AIQ begins there instead."""
    alone, beside = np.array([[2.0, 1.0]]), np.array([[1.0, 0.1], [2.0, 1.0]])
    assert aiq(alone, (0.0, 2.0)) == aiq0(alone, (0.0, 2.0)) == pytest.approx(0.5)
    assert aiq(beside, (0.0, 2.0)) == pytest.approx((0.05 + 0.55) / 2)
    assert aiq0(beside, (0.0, 2.0)) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(200))
def test_a_point_more_never_lowers_aiq0_over_a_fixed_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.random((rng.integers(1, 6), 2))
    low, high = sorted(rng.random(2) * 1.5)
    less, more = (aiq0(points[:count], (low, high)) for count in (len(points) - 1 or 1, len(points)))
    assert more >= less - 1e-12
    assert more >= aiq(points, (low, high)) - 1e-12


@pytest.mark.parametrize(("cost_range", "area", "width"), [((0.0, 4.0), 0.8 + 1.7, 4), (None, 0.6 + 1.7 + 0.9, 4)])
def test_aiq0_by_hand(cost_range: tuple[float, float] | None, area: float, width: float) -> None:
    """From (0, 0) to (2, 0.8) in a line, which (1, 0.2) lies below; then to (4, 0.9), and flat."""
    assert aiq0(POINTS, cost_range) == pytest.approx(area / width)


@pytest.mark.parametrize("points", [np.empty((0, 2)), np.array([[1.0, math.nan]])])
def test_a_hull_needs_finite_points(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one finite"):
        non_decreasing_hull(points)


SCORES, PRICES = np.array([[0.9, 0.5], [0.6, 0.5]]), np.array([3.0, 1.0])
REWARDS, COSTS = np.array([[1.0, 0.0], [1.0, 0.5]]), np.array([[4.0, 1.0], [2.0, np.nan]])
"""Question 0 changes at a weight of 0.4 / 2, question 1 at 0.1 / 2."""


def test_a_sweep_by_hand() -> None:
    curve = sweep(SCORES, PRICES, REWARDS, COSTS, weights=(0.3, 0.0, 0.1))
    assert curve.weights.tolist() == [0.0, 0.1, 0.3]
    # The missing cost is its price, 1.
    np.testing.assert_allclose(curve.costs, [[4, 2], [4, 1], [1, 1]])
    np.testing.assert_allclose(curve.rewards, [[1, 1], [1, 0.5], [0, 0.5]])
    np.testing.assert_allclose(curve.points(), [[3, 1], [2.5, 0.75], [1, 0.25]])
    np.testing.assert_allclose(curve.points(np.array([0, 0])), [[4, 1], [4, 1], [1, 0]])


def test_weights_lie_where_routes_change() -> None:
    found = cost_weights(SCORES, PRICES)
    assert found[0] == 0.0
    assert found[1] == pytest.approx(0.05)
    assert found[-2:] == pytest.approx([0.2, 0.4])
    assert (np.diff(found) > 0).all()


def test_a_sweep_runs_from_the_best_score_to_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    scores, rewards, costs = rng.random((50, 4)), rng.random((50, 4)), rng.random((50, 4)) + np.arange(1, 5)
    curve = sweep(scores, costs.mean(0), rewards, costs)
    np.testing.assert_allclose(curve.rewards[0], rewards[np.arange(50), scores.argmax(1)])
    np.testing.assert_allclose(curve.costs[-1], costs[:, 0])
    assert len(curve.weights) <= 40


def test_equal_prices_leave_nothing_to_weigh() -> None:
    assert cost_weights(SCORES, np.ones(2)).tolist() == [0.0]


WEAK, STRONG = np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0])
"""Strong gains 1, 1, 0 and -1: 1 over all."""


def test_recovered_by_hand() -> None:
    """The order is 0, 2, 1, 3."""
    preference = np.array([0.9, 0.5, 0.7, 0.1])
    assert recovered(preference, WEAK, STRONG).tolist() == [0, 1, 1, 2, 1]
    assert apgr(preference, WEAK, STRONG) == pytest.approx((0.5 + 1 + 1.5 + 1.5) / 4)
    assert cpt(preference, WEAK, STRONG, 0.5) == pytest.approx(0.125)
    assert cpt(preference, WEAK, STRONG, 0.8) == pytest.approx(0.2)


def test_the_worst_order_by_hand() -> None:
    """The order is 3, 2, 0, 1: -1, -1, 0, 1."""
    preference = np.array([0.2, 0.1, 0.3, 0.4])
    assert recovered(preference, WEAK, STRONG).tolist() == [0, -1, -1, 0, 1]
    assert apgr(preference, WEAK, STRONG) == pytest.approx((-0.5 - 1 - 0.5 + 0.5) / 4)
    assert cpt(preference, WEAK, STRONG, 0.5) == pytest.approx(3.5 / 4)


def test_without_a_preference_the_curve_is_a_line() -> None:
    nothing = np.zeros(4)
    assert apgr(nothing, WEAK, STRONG) == pytest.approx(0.5)
    assert cpt(nothing, WEAK, STRONG, 0.8) == pytest.approx(0.8)
    assert cpt(nothing, WEAK, STRONG, 1.0) == pytest.approx(1.0)


def test_ties_do_not_hang_on_the_order_of_questions() -> None:
    preference = np.array([1.0, 1.0, 0.0, 0.0])
    turned = np.array([1, 0, 3, 2])
    found = apgr(preference, WEAK, STRONG)
    assert found == pytest.approx(apgr(preference[turned], WEAK[turned], STRONG[turned]))
    assert recovered(preference, WEAK, STRONG).tolist() == [0, 1, 2, 1.5, 1]


def test_all_of_the_gap_is_recovered_by_all_calls() -> None:
    """Sums of thirds do not end at 1 exactly."""
    rng = np.random.default_rng(0)
    weak, strong = rng.random(97) / 3, rng.random(97)
    assert 0 < cpt(rng.random(97), weak, strong, 1.0) <= 1.0 + 1e-12


def test_where_strong_is_not_better_there_is_no_gap() -> None:
    for one, other in ((STRONG, WEAK), (WEAK, WEAK)):
        assert math.isnan(apgr(np.arange(4.0), one, other))
        assert math.isnan(cpt(np.arange(4.0), one, other, 0.5))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="missing rewards"):
        apgr(np.arange(4.0), WEAK, np.array([1.0, math.nan, 1.0, 1.0]))
    for share in (0.0, 50.0):
        with pytest.raises(ValueError, match="at most 1"):
            cpt(np.arange(4.0), WEAK, STRONG, share)
