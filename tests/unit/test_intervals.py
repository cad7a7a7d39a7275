"""Intervals against published values, and where there is little to say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from haps_search.evaluation import intervals
from haps_search.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    paired_interval,
    paired_runs_interval,
    runs_interval,
    seed_interval,
    tango,
    two_way_interval,
    wilson,
)


def answers(right: int, count: int) -> list[float]:
    return [1.0] * right + [0.0] * (count - right)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(right: int, count: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    found = mean_interval(answers(right, count))
    assert (found.mean, found.count) == (pytest.approx(right / count), count)
    assert (found.low, found.high) == wilson(right, count)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_as_published(one: tuple[int, int], other: tuple[int, int], low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10."""
    found = difference_interval(answers(*one), answers(*other))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.mean == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert found.count == min(one[1], other[1])


def test_a_difference_turned_round_is_mirrored() -> None:
    there, back = (difference_interval(answers(*a), answers(*b)) for a, b in [((7, 9), (2, 5)), ((2, 5), (7, 9))])
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


MEASURES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Interval], float]] = {
    "mean": (lambda one, other: mean_interval(one), 2 / 7),
    "difference": (difference_interval, 2 / 7 - 1 / 2),
    "paired": (lambda one, other: paired_interval(one, one - other), 1 / 2),
}


def covered(how: str) -> float:
    """Share of 120 samples of 60 whose interval holds the truth."""
    rng = np.random.default_rng(1)
    measure, truth = MEASURES[how]
    found = [measure(rng.beta(2, 5, 60), rng.beta(2, 2, 60)) for _ in range(120)]
    return sum(i.low <= truth <= i.high for i in found) / 120


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haps_search.evaluation.intervals.DRAWS", 200)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("how", MEASURES)
def test_the_bootstrap_holds_the_truth_about_as_often_as_it_says(how: str) -> None:
    assert 0.89 <= covered(how) <= 0.985


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).beta(2, 5, 400)
    found, half = mean_interval(values), 1.96 * values.std() / 20
    assert (found.mean, found.low, found.high) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half), abs=0.1 * half
    )


def test_the_bootstrap_follows_from_its_seed() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 30)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, seed=1) != mean_interval(values)


PAIRS = [(0, 0, 48), (3, 0, 20), (7, 2, 30), (2, 7, 30), (40, 20, 160), (5, 5, 12), (12, 0, 12), (0, 4, 4), (1, 1, 2)]


def likeliest_score(gains: int, losses: int, count: int, difference: float) -> float:
    """z of Tango's paper, with the probability of a loss found by maximising the likelihood numerically."""

    def unlikely(loss: float) -> float:
        chances = (loss + difference, loss, 1 - 2 * loss - difference)
        pairs = zip((gains, losses, count - gains - losses), chances, strict=True)
        return -sum(k * math.log(max(p, 1e-300)) for k, p in pairs if k)

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    loss = min((low, high, float(found.x)), key=unlikely)
    variance = count * (2 * loss + difference * (1 - difference))
    return (gains - losses - count * difference) / math.sqrt(variance)


@pytest.mark.parametrize(("gains", "losses", "count"), PAIRS)
def test_tangos_bounds_are_where_the_score_test_begins_to_refuse(gains: int, losses: int, count: int) -> None:
    low, high = tango(gains, losses, count)
    assert low < (gains - losses) / count < high or abs(gains - losses) == count
    for bound, wanted in ((low, intervals.Z), (high, -intervals.Z)):
        if abs(bound) < 1:
            assert likeliest_score(gains, losses, count, bound) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("gains", "losses", "count"), PAIRS)
def test_tangos_interval_turned_round_is_mirrored(gains: int, losses: int, count: int) -> None:
    low, high = tango(gains, losses, count)
    assert tango(losses, gains, count) == pytest.approx((-high, -low))


@pytest.mark.parametrize("count", [1, 48, 1000])
def test_where_no_pair_differs_the_bounds_have_a_closed_form(count: int) -> None:
    """z^2 = n d / (1 - d) there."""
    bound = intervals.Z**2 / (count + intervals.Z**2)
    found = paired_interval(answers(1, count), answers(1, count))
    assert (found.low, found.mean, found.high) == pytest.approx((-bound, 0.0, bound))


def test_where_every_pair_gains_the_bounds_have_one_too() -> None:
    """z^2 = n (1 - d) / (1 + d) there."""
    assert tango(12, 0, 12) == pytest.approx(((12 - intervals.Z**2) / (12 + intervals.Z**2), 1.0))


def test_rewards_of_zero_and_one_are_paired_by_their_score_and_others_by_the_bootstrap() -> None:
    one, other = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]
    found = paired_interval(one, other)
    assert (found.low, found.high) == tango(2, 1, 4)
    assert paired_interval([True, False], [False, False]) == paired_interval([1.0, 0.0], [0.0, 0.0])
    halves = paired_interval([r / 2 for r in one], [r / 2 for r in other])
    assert (2 * halves.low, 2 * halves.high) != pytest.approx((found.low, found.high), abs=0.01)


@pytest.mark.parametrize(("gain", "loss"), [(0.04, 0.0), (0.05, 0.01), (0.08, 0.04), (0.3, 0.1)])
def test_tangos_interval_holds_the_truth_where_the_bootstrap_does_not(gain: float, loss: float) -> None:
    """48 questions; of 3,000 samples at one gain in 25 the bootstrap holds it in 84.5 %, without width where nobody
    differs."""
    drawn = np.random.default_rng(0).multinomial(48, [gain, loss, 1 - gain - loss], 1500)[:, :2]
    pairs, times = np.unique(drawn, axis=0, return_counts=True)
    held = [low <= gain - loss <= high for low, high in (tango(int(b), int(c), 48) for b, c in pairs)]
    assert 0.925 <= float(times[held].sum()) / 1500 <= 0.995


@pytest.mark.parametrize("values", [[[1.0, 0.0, 1.0]], [[0.2, 0.4, 0.9]]])
def test_of_one_seed_only_questions_are_resampled(values: list[list[float]]) -> None:
    rewards = np.asarray(values)
    assert runs_interval(rewards) == mean_interval(values[0])
    assert paired_runs_interval(rewards, np.ones((1, 3))) == paired_interval(values[0], [1.0] * 3)


def test_of_several_seeds_both_are_resampled() -> None:
    rewards = np.array([[0.0] * 4, [1.0] * 4])
    for found in (runs_interval(rewards), paired_runs_interval(rewards, np.zeros((1, 4)))):
        assert found == two_way_interval(rewards)
        assert (found.low, found.high) == (0.0, 1.0)


def test_pairing_removes_what_questions_have_in_common() -> None:
    hard = np.random.default_rng(0).uniform(0, 0.8, 100)
    paired, apart = paired_interval(hard + 0.1, hard), difference_interval(hard + 0.1, hard)
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))
    assert apart.low < 0.05 < 0.15 < apart.high


def test_separate_samples_are_not_resampled_together() -> None:
    values = [0.2, 0.4, 0.6, 0.8]
    found = difference_interval(values, values)
    assert found.mean == 0.0
    assert found.low < -0.05 < 0.05 < found.high


@pytest.mark.parametrize("right", [0, 5])
def test_all_wrong_or_all_right_still_leaves_doubt(right: int) -> None:
    found = mean_interval(answers(right, 5))
    assert found.high - found.low > 0.4
    assert found.low <= found.mean <= found.high


def test_equal_values_leave_none() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)
    assert paired_interval([0.75, 0.5], [0.5, 0.25]) == Interval(0.25, 0.25, 0.25, 2)


def test_one_question_has_an_interval() -> None:
    assert mean_interval([1.0]).low == pytest.approx(0.2065, abs=1e-4)
    assert mean_interval([0.3]) == Interval(0.3, 0.3, 0.3, 1)


def test_truth_values_count_as_rewards() -> None:
    assert mean_interval([True, False, True]) == mean_interval([1.0, 0.0, 1.0])


def test_no_questions_have_none() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        mean_interval([])


def test_paired_values_need_the_same_questions() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_interval([1.0, 0.0], [1.0, 0.0, 1.0])


def test_an_interval_reads_as_mean_and_bounds() -> None:
    assert str(Interval(0.5, 0.25, 0.75, 4)) == "0.500 [0.250, 0.750]"


def test_seeds_get_students_interval() -> None:
    """By hand: mean 0.9, sample deviation 0.1, t(0.975, 2) = 4.302653."""
    found = seed_interval([0.8, 0.9, 1.0])
    half = 4.302652729911275 * 0.1 / math.sqrt(3)
    assert found.mean == pytest.approx(0.9)
    assert (found.low, found.high) == (pytest.approx(0.9 - half), pytest.approx(0.9 + half))


def test_one_seed_has_no_interval() -> None:
    found = seed_interval([0.97])
    assert (found.mean, found.count) == (0.97, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_of_many_values_the_counts_are_drawn_and_the_interval_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).choice([0.0, 0.25, 0.5, 1.0], 3000, p=[0.4, 0.1, 0.2, 0.3]).tolist()
    each = mean_interval(values)
    monkeypatch.setattr(intervals, "MANY", 100)
    by_counts = mean_interval(values)
    half = intervals.Z * float(np.std(values)) / 3000**0.5
    assert by_counts != each, "the counts were not drawn"
    for found in (each, by_counts):
        assert found.mean == pytest.approx(np.mean(values))
        assert found.high - found.low == pytest.approx(2 * half, rel=0.08)
        assert found.low + found.high == pytest.approx(2 * found.mean, abs=0.1 * half)
    monkeypatch.setattr(intervals, "LEVELS", 3)
    assert mean_interval(values) == each
