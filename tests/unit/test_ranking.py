"""Which trial is best."""

from __future__ import annotations

import math

import pytest
from sweeps import a_trial

from haps_search.config.sweep import Objective
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.ranking import pareto_front, ranked

REWARD = Objective()
TOKENS = Objective(metric="validation_tokens", mode="min")


def numbers(trials: list[TrialRecord]) -> list[int]:
    return [t.number for t in trials]


def with_tokens(number: int, reward: float, tokens: float, **changes: object) -> TrialRecord:
    return a_trial(number, metrics={"validation_reward": reward, "validation_tokens": tokens}, **changes)


def test_the_highest_comes_first_and_of_equals_the_earlier() -> None:
    assert numbers(ranked([a_trial(0, 0.5), a_trial(1, 0.9), a_trial(2, 0.5)], [REWARD])) == [1, 0, 2]


def test_the_lowest_comes_first_where_the_objective_is_small() -> None:
    trials = [with_tokens(0, 0.5, 8.0), with_tokens(1, 0.5, 2.0), with_tokens(2, 0.9, 4.0)]
    assert numbers(ranked(trials, [TOKENS])) == [1, 2, 0]


def test_only_search_trials_that_ended_with_a_value_are_ranked() -> None:
    trials = [
        a_trial(0, 0.9, kind="comparison"),
        a_trial(1, 0.9, kind="confirm"),
        a_trial(2, 0.9, state="failed"),
        a_trial(3, 0.9, state="running"),
        a_trial(4, None),
        a_trial(5, 0.1),
    ]
    assert numbers(ranked(trials, [REWARD])) == [5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_none(value: float) -> None:
    trials = [a_trial(0, 0.1), a_trial(1, value), a_trial(2, 0.9), a_trial(3, value), a_trial(4, 0.5)]
    assert numbers(ranked(trials, [REWARD])) == [2, 4, 0]


def test_stopped_trials_follow_finished_ones() -> None:
    trials = [a_trial(0, 0.9, state="stopped"), a_trial(1, 0.2), a_trial(2, 0.3)]
    assert numbers(ranked(trials, [REWARD])) == [2, 1, 0]


def test_with_several_objectives_the_front_comes_first_by_the_first_objective() -> None:
    trials = [
        with_tokens(0, 0.9, 9.0),  # best reward
        with_tokens(1, 0.8, 10.0),  # beaten by 0 in both
        with_tokens(2, 0.5, 3.0),  # fewest tokens
        with_tokens(3, 0.7, 5.0),  # between
        with_tokens(4, 0.6, 5.0),  # beaten by 3
    ]
    assert numbers(ranked(trials, [REWARD, TOKENS])) == [0, 3, 2, 1, 4]


def test_the_front_keeps_what_nothing_beats() -> None:
    trials = [with_tokens(0, 0.9, 9.0), with_tokens(1, 0.9, 9.0), with_tokens(2, 0.9, 9.5), with_tokens(3, 0.1, 1.0)]
    assert numbers(pareto_front(trials, [REWARD, TOKENS])) == [0, 1, 3]


def test_a_trial_that_lacks_one_of_the_objectives_is_not_ranked() -> None:
    assert numbers(ranked([a_trial(0, 0.9), with_tokens(1, 0.1, 1.0)], [REWARD, TOKENS])) == [1]
