"""Advantages, worked out by hand, and what every scheme promises."""

from __future__ import annotations

import math
import random
from typing import get_args

import pytest

from haps_search.config.learning import LearningConfig
from haps_search.learning.advantage import SCHEMES
from haps_search.learning.advantage.group_normalised import group_normalised
from haps_search.learning.advantage.leave_one_out import leave_one_out
from haps_search.learning.advantage.paper import paper
from haps_search.types import Assignment

A, B, AB = ("a",), ("b",), ("a", "b")
COMPARING = ["leave_one_out", "group_normalised"]
Case = tuple[list[float], list[Assignment]]


def drawn(seed: int) -> Case:
    rng = random.Random(seed)
    count = rng.randint(2, 7)
    return [rng.choice([0.0, 0.25, 1.0]) for _ in range(count)], [rng.choice([A, B, AB]) for _ in range(count)]


CASES = [drawn(seed) for seed in range(30)]


def test_paper_pays_the_reward_or_minus_one() -> None:
    advantages = paper([0.5, 0.0, 1.0], [A, A, B])
    assert advantages.architecture == advantages.completion == (0.5, -1.0, 1.0)


def test_paper_needs_no_other_episode() -> None:
    assert paper([0.0], [A]).architecture == (-1.0,)


def test_leave_one_out_within_one_assignment() -> None:
    advantages = leave_one_out([1.0, 0.0, 0.0, 1.0], [A, A, A, A])
    assert advantages.architecture == pytest.approx((2 / 3, -2 / 3, -2 / 3, 2 / 3))
    assert advantages.completion == advantages.architecture


def test_leave_one_out_judges_completions_within_their_assignment_and_a_lone_one_within_the_question() -> None:
    advantages = leave_one_out([1.0, 0.0, 0.5, 0.0], [A, A, B, A])
    assert advantages.architecture == pytest.approx((1 - 0.5 / 3, -1.5 / 3, 0.5 - 1 / 3, -1.5 / 3))
    assert advantages.completion == pytest.approx((1.0, -0.5, 0.5 - 1 / 3, -0.5))


def test_group_normalised_within_one_assignment() -> None:
    advantages = group_normalised([1.0, 0.0, 0.0, 1.0], [A, A, A, A])
    assert advantages.architecture == advantages.completion == pytest.approx((1.0, -1.0, -1.0, 1.0))


def test_group_normalised_across_assignments() -> None:
    advantages = group_normalised([1.0, 0.0, 0.2, 0.6], [A, A, B, B])
    spread = math.sqrt((0.55**2 + 0.45**2 + 0.25**2 + 0.15**2) / 4)
    assert advantages.architecture == pytest.approx((0.55 / spread, -0.45 / spread, -0.25 / spread, 0.15 / spread))
    assert advantages.completion == pytest.approx((1.0, -1.0, -1.0, 1.0))


def test_roles_in_another_order_are_another_assignment() -> None:
    advantages = leave_one_out([1.0, 1.0, 0.0, 0.0], [("a", "b"), ("a", "b"), ("b", "a"), ("b", "a")])
    assert advantages.completion == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", COMPARING)
def test_the_difference_between_candidates_stays_out_of_the_adapters(name: str) -> None:
    advantages = SCHEMES[name]([1.0, 1.0, 0.0, 0.0], [A, A, B, B])
    assert advantages.completion == (0.0, 0.0, 0.0, 0.0)
    assert min(advantages.architecture[:2]) > 0.5 > -0.5 > max(advantages.architecture[2:])


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_no_spread_no_advantage(name: str, reward: float) -> None:
    advantages = SCHEMES[name]([reward] * 4, [A, A, B, A])
    assert advantages.architecture == pytest.approx((0.0,) * 4, abs=1e-15)
    assert advantages.completion == pytest.approx((0.0,) * 4, abs=1e-15)


@pytest.mark.parametrize("name", COMPARING)
def test_one_episode_alone_earns_no_advantage(name: str) -> None:
    advantages = SCHEMES[name]([1.0], [A])
    assert advantages.architecture == advantages.completion == (0.0,)


def test_the_table_holds_what_the_configuration_may_name() -> None:
    assert set(SCHEMES) == set(get_args(LearningConfig.model_fields["advantage"].annotation))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_one_advantage_per_episode_in_the_order_of_the_episodes(name: str, case: Case) -> None:
    rewards, assignments = case
    forward = SCHEMES[name](rewards, assignments)
    backward = SCHEMES[name](rewards[::-1], assignments[::-1])
    assert len(forward.architecture) == len(forward.completion) == len(rewards)
    assert backward.architecture[::-1] == pytest.approx(forward.architecture)
    assert backward.completion[::-1] == pytest.approx(forward.completion)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_a_higher_reward_never_earns_less(name: str, case: Case) -> None:
    rewards, assignments = case
    advantages = SCHEMES[name](rewards, assignments).architecture
    in_order = [advantage for _, advantage in sorted(zip(rewards, advantages, strict=True))]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("case", CASES)
def test_a_reward_that_all_earn_changes_nothing(name: str, case: Case) -> None:
    rewards, assignments = case
    plain, shifted = SCHEMES[name](rewards, assignments), SCHEMES[name]([r + 3.0 for r in rewards], assignments)
    assert shifted.architecture == pytest.approx(plain.architecture, abs=1e-9)
    assert shifted.completion == pytest.approx(plain.completion, abs=1e-9)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("case", CASES)
def test_advantages_of_all_that_are_compared_cancel(name: str, case: Case) -> None:
    rewards, assignments = case
    advantages = SCHEMES[name](rewards, assignments)
    assert math.fsum(advantages.architecture) == pytest.approx(0.0, abs=1e-9)
    for z in set(assignments):
        group = [c for c, own in zip(advantages.completion, assignments, strict=True) if own == z]
        if len(group) > 1:
            assert math.fsum(group) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("name", "power"), [("leave_one_out", 1), ("group_normalised", 0), ("paper", 1)])
def test_how_advantages_follow_the_scale_of_rewards(name: str, power: int) -> None:
    rewards, assignments = [0.9, 0.1, 0.4, 0.2], [A, A, B, A]
    plain, halved = SCHEMES[name](rewards, assignments), SCHEMES[name]([r / 2 for r in rewards], assignments)
    assert halved.completion == pytest.approx([c / 2**power for c in plain.completion])
