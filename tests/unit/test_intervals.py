"""Intervals against published values, and where there is little to say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from haps_search.evaluation import intervals
from haps_search.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    paired_interval,
    seed_interval,
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
    assert paired_interval([1.0, 0.0], [1.0, 0.0]) == Interval(0.0, 0.0, 0.0, 2)


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
