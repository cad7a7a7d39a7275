"""Advantages, worked out by hand, and what every scheme promises."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import get_args

import pytest

from haps_search.config.learning import LearningConfig
from haps_search.learning.advantage import SCHEMES, Group, RunningMeans, judged
from haps_search.learning.advantage.group_normalised import group_normalised
from haps_search.learning.advantage.leave_one_out import leave_one_out
from haps_search.learning.advantage.paper import paper
from haps_search.learning.advantage.running_means import DECAY, Earned
from haps_search.types import Assignment

A, B, AB = ("a",), ("b",), ("a", "b")
COMPARING = ["leave_one_out", "group_normalised"]
Case = tuple[list[float], list[Assignment]]


def drawn(seed: int) -> Case:
    rng = random.Random(seed)
    count = rng.randint(2, 7)
    return [rng.choice([0.0, 0.25, 1.0]) for _ in range(count)], [rng.choice([A, B, AB]) for _ in range(count)]


CASES = [drawn(seed) for seed in range(30)]


def group(rewards: Sequence[float], assignments: Sequence[Assignment], *before: Earned | None) -> Group:
    """Nothing costs anything; `before` is known of no candidate unless given."""
    return Group(rewards, rewards, assignments, before or (None,) * len(rewards))


def test_paper_pays_the_reward_or_minus_one() -> None:
    advantages = paper(group([0.5, 0.0, 1.0], [A, A, B]))
    assert advantages.architecture == advantages.completion == (0.5, -1.0, 1.0)


def test_paper_needs_no_other_episode() -> None:
    assert paper(group([0.0], [A])).architecture == (-1.0,)


def test_leave_one_out_within_one_assignment() -> None:
    advantages = leave_one_out(group([1.0, 0.0, 0.0, 1.0], [A, A, A, A]))
    assert advantages.architecture == pytest.approx((2 / 3, -2 / 3, -2 / 3, 2 / 3))
    assert advantages.completion == advantages.architecture


def test_leave_one_out_judges_completions_within_their_assignment_and_a_lone_one_by_what_its_candidate_earned() -> None:
    before = [Earned(0.9, 0.3)] * 2 + [Earned(0.2, 0.4), Earned(0.9, 0.3)]
    advantages = leave_one_out(group([1.0, 0.0, 0.5, 0.0], [A, A, B, A], *before))
    assert advantages.architecture == pytest.approx((1 - 0.5 / 3, -1.5 / 3, 0.5 - 1 / 3, -1.5 / 3))
    assert advantages.completion == pytest.approx((1.0, -0.5, 0.5 - 0.2, -0.5))


def test_group_normalised_standardises_a_lone_completion_by_what_its_candidate_earned() -> None:
    wide, narrow = Earned(0.2, 0.4), Earned(0.2, 0.01)
    for before, wanted in ((wide, 0.3 / 0.4), (narrow, 0.3 / 0.1), (None, 0.0)):
        advantages = group_normalised(group([1.0, 0.0, 0.5], [A, A, B], None, None, before))
        assert advantages.completion == pytest.approx((1.0, -1.0, wanted))


@pytest.mark.parametrize("name", COMPARING)
def test_a_lone_completion_of_a_candidate_that_nobody_knows_has_no_weight(name: str) -> None:
    """Else the difference between candidates would flow into the adapter."""
    advantages = SCHEMES[name](group([0.0, 0.0, 1.0], [A, A, B]))
    assert advantages.completion == (0.0, 0.0, 0.0)
    assert advantages.architecture[2] >= 1.0


def test_a_spread_below_the_floor_is_not_blown_up() -> None:
    """What tokens cost differs by a thousandth: it used to count as much as being right or wrong."""
    advantages = group_normalised(group([0.500, 0.501, 0.499, 0.500], [A, A, A, A]))
    assert advantages.architecture == pytest.approx((0.0, 0.01, -0.01, 0.0))


def test_the_paper_looks_at_rewards_and_the_others_at_utilities() -> None:
    rewards, utilities = [0.1, 0.0, 1.0], [-0.2, -0.3, 0.7]
    costly = Group(rewards, utilities, [A, A, A], (None,) * 3)
    assert paper(costly).completion == paper(costly).architecture == (0.1, -1.0, 1.0)
    for scheme in (leave_one_out, group_normalised):
        assert scheme(costly) == scheme(group(utilities, [A, A, A]))


def test_a_candidates_mean_is_of_earlier_steps_and_forgets_slowly() -> None:
    means = RunningMeans()
    assert means.of(A) is None
    means.add([[A, A], [B, AB]], [[1.0, 0.0], [0.5, 0.2]])
    assert means.of(A) == Earned(pytest.approx(0.4), pytest.approx(math.sqrt((0.36 + 0.16 + 0.04) / 3)))
    assert means.of(B) == Earned(pytest.approx(0.35), pytest.approx(0.15))
    both = means.of(AB)
    assert both is not None
    assert both.mean == pytest.approx((0.4 + 0.35) / 2)
    means.add([[A]], [[1.0]])
    found = means.of(A)
    assert found is not None
    assert found.mean == pytest.approx((DECAY * 1.2 + 1.0) / (DECAY * 3 + 1))
    assert means.of(B) == Earned(pytest.approx(0.35), pytest.approx(0.15)), "it did not speak"
    assert means.of(("a", "c")) is None


def test_one_that_plays_both_seats_counts_once() -> None:
    means = RunningMeans()
    means.add([[("a", "a"), AB]], [[1.0, 0.0]])
    assert means.of(A) == Earned(0.5, 0.5)


def test_running_means_go_through_json_unchanged() -> None:
    means = RunningMeans()
    means.add([[A, B]], [[1 / 3, 0.1]])
    again = RunningMeans(json.loads(json.dumps(means.state())))
    means.add([[A]], [[0.7]])
    again.add([[A]], [[0.7]])
    assert again.state() == means.state()


def test_every_question_is_judged_by_its_own_episodes() -> None:
    means = RunningMeans({"a": (2.0, 1.0, 1.0)})
    first, second = judged("leave_one_out", [[A, A], [A, B]], [[9.0, 9.0], [9.0, 9.0]], [[1.0, 0.0], [0.8, 0.3]], means)
    assert first.completion == (1.0, -1.0)
    assert second.completion == pytest.approx((0.3, 0.0))


def test_group_normalised_within_one_assignment() -> None:
    advantages = group_normalised(group([1.0, 0.0, 0.0, 1.0], [A, A, A, A]))
    assert advantages.architecture == advantages.completion == pytest.approx((1.0, -1.0, -1.0, 1.0))


def test_group_normalised_across_assignments() -> None:
    advantages = group_normalised(group([1.0, 0.0, 0.2, 0.6], [A, A, B, B]))
    spread = math.sqrt((0.55**2 + 0.45**2 + 0.25**2 + 0.15**2) / 4)
    assert advantages.architecture == pytest.approx((0.55 / spread, -0.45 / spread, -0.25 / spread, 0.15 / spread))
    assert advantages.completion == pytest.approx((1.0, -1.0, -1.0, 1.0))


def test_roles_in_another_order_are_another_assignment() -> None:
    advantages = leave_one_out(group([1.0, 1.0, 0.0, 0.0], [("a", "b"), ("a", "b"), ("b", "a"), ("b", "a")]))
    assert advantages.completion == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", COMPARING)
def test_the_difference_between_candidates_stays_out_of_the_adapters(name: str) -> None:
    advantages = SCHEMES[name](group([1.0, 1.0, 0.0, 0.0], [A, A, B, B]))
    assert advantages.completion == (0.0, 0.0, 0.0, 0.0)
    assert min(advantages.architecture[:2]) > 0.5 > -0.5 > max(advantages.architecture[2:])


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_no_spread_no_advantage(name: str, reward: float) -> None:
    advantages = SCHEMES[name](group([reward] * 4, [A, A, B, A]))
    assert advantages.architecture == pytest.approx((0.0,) * 4, abs=1e-15)
    assert advantages.completion == pytest.approx((0.0,) * 4, abs=1e-15)


@pytest.mark.parametrize("name", COMPARING)
def test_one_episode_alone_earns_no_advantage(name: str) -> None:
    advantages = SCHEMES[name](group([1.0], [A]))
    assert advantages.architecture == advantages.completion == (0.0,)


def test_the_table_holds_what_the_configuration_may_name() -> None:
    assert set(SCHEMES) == set(get_args(LearningConfig.model_fields["advantage"].annotation))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_one_advantage_per_episode_in_the_order_of_the_episodes(name: str, case: Case) -> None:
    rewards, assignments = case
    forward = SCHEMES[name](group(rewards, assignments))
    backward = SCHEMES[name](group(rewards[::-1], assignments[::-1]))
    assert len(forward.architecture) == len(forward.completion) == len(rewards)
    assert backward.architecture[::-1] == pytest.approx(forward.architecture)
    assert backward.completion[::-1] == pytest.approx(forward.completion)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_a_higher_reward_never_earns_less(name: str, case: Case) -> None:
    rewards, assignments = case
    advantages = SCHEMES[name](group(rewards, assignments)).architecture
    in_order = [advantage for _, advantage in sorted(zip(rewards, advantages, strict=True))]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("case", CASES)
def test_a_reward_that_all_earn_changes_nothing(name: str, case: Case) -> None:
    rewards, assignments = case
    plain, shifted = (
        SCHEMES[name](group(rewards, assignments)),
        SCHEMES[name](group([r + 3.0 for r in rewards], assignments)),
    )
    assert shifted.architecture == pytest.approx(plain.architecture, abs=1e-9)
    assert shifted.completion == pytest.approx(plain.completion, abs=1e-9)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("case", CASES)
def test_advantages_of_all_that_are_compared_cancel(name: str, case: Case) -> None:
    rewards, assignments = case
    advantages = SCHEMES[name](group(rewards, assignments))
    assert math.fsum(advantages.architecture) == pytest.approx(0.0, abs=1e-9)
    for z in set(assignments):
        same = [c for c, own in zip(advantages.completion, assignments, strict=True) if own == z]
        assert math.fsum(same) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("name", "power"), [("leave_one_out", 1), ("group_normalised", 0), ("paper", 1)])
def test_how_advantages_follow_the_scale_of_rewards(name: str, power: int) -> None:
    rewards, assignments = [0.9, 0.1, 0.4, 0.2], [A, A, B, A]
    plain, halved = (
        SCHEMES[name](group(rewards, assignments)),
        SCHEMES[name](group([r / 2 for r in rewards], assignments)),
    )
    assert halved.completion == pytest.approx([c / 2**power for c in plain.completion])
