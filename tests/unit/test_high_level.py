"""Distributions over assignments: what is drawn, how likely it is, and how open the choice."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from haps_search.config.routing import FixedHighLevel, HeadHighLevel, RandomHighLevel
from haps_search.errors import ConfigError
from haps_search.routing.high_level import AssignmentDistribution, all_assignments, build_high_level

NAMES = ("a", "b", "c")
POOLED = torch.zeros(2, 4, dtype=torch.float64)
# Two questions, two roles, three candidates.
PROBABILITIES = [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.0, 0.6, 0.4], [1.0, 0.0, 0.0]]]


def two_roles() -> AssignmentDistribution:
    return AssignmentDistribution(torch.tensor(PROBABILITIES, dtype=torch.float64).log().clamp_min(-1e4), NAMES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distribution(config: HeadHighLevel | FixedHighLevel | RandomHighLevel, roles: int) -> AssignmentDistribution:
    return build_high_level(config, 4, roles, NAMES).double()(POOLED)


def test_assignments_are_drawn_as_often_as_they_are_likely() -> None:
    draws = 20_000
    for row, (first, second) in zip(two_roles().sample(draws, generator()), PROBABILITIES, strict=True):
        counts = Counter(row)
        for z in all_assignments(NAMES, 2):
            p = first[NAMES.index(z[0])] * second[NAMES.index(z[1])]
            assert counts[z] / draws == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / draws) + 1e-12), z


def test_draws_follow_from_the_seed() -> None:
    first, same, other = (two_roles().sample(20, generator(seed)) for seed in (3, 3, 4))
    assert first == same
    assert first != other


def test_the_probability_of_an_assignment_is_the_product_over_roles() -> None:
    asked = [[("a", "c"), ("b", "a")], [("b", "a"), ("c", "a")]]
    found = two_roles().log_probability(asked).exp()
    torch.testing.assert_close(found, torch.tensor([[0.5 * 0.8, 0.3 * 0.1], [0.6, 0.4]], dtype=torch.float64))


def test_the_probabilities_of_all_assignments_sum_to_one() -> None:
    everything = all_assignments(NAMES, 2)
    assert len(set(everything)) == 9
    total = two_roles().log_probability([everything, everything]).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64))


def test_the_best_assignment_is_the_likeliest_of_all() -> None:
    assert two_roles().best() == [[("a", "c")], [("b", "a")]]


def test_entropy_adds_over_roles_and_an_impossible_candidate_adds_nothing() -> None:
    def nats(p: list[float]) -> float:
        return -sum(x * math.log(x) for x in p if x)

    wanted = [nats(first) + nats(second) for first, second in PROBABILITIES]
    assert two_roles().entropy().tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("config", [HeadHighLevel(), RandomHighLevel()])
@pytest.mark.parametrize("roles", [1, 2])
def test_a_fresh_head_and_the_random_router_are_uniform(config: HeadHighLevel | RandomHighLevel, roles: int) -> None:
    found = distribution(config, roles)
    assert found.log_p.shape == (2, roles, 3)
    assert found.entropy().tolist() == pytest.approx([roles * math.log(3)] * 2)
    assert found.log_probability([[("c",) * roles]] * 2).exp().flatten().tolist() == pytest.approx([3.0**-roles] * 2)


def test_the_fixed_router_always_takes_its_assignment() -> None:
    found = distribution(FixedHighLevel(assignment=("c", "a")), 2)
    assert found.sample(5, generator()) == [[("c", "a")] * 5] * 2
    assert found.best() == [[("c", "a")]] * 2
    assert found.log_probability([[("c", "a")]] * 2).tolist() == [[0.0], [0.0]]
    assert found.entropy().tolist() == [0.0, 0.0]


def test_a_fixed_assignment_for_other_roles_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 candidates for 1 roles"):
        build_high_level(FixedHighLevel(assignment=("c", "a")), 4, 1, NAMES)


def test_only_the_head_learns() -> None:
    learns = {
        type: build_high_level(c, 4, 1, NAMES) for type, c in (("head", HeadHighLevel()), ("random", RandomHighLevel()))
    }
    assert {type: (high.learns, any(True for _ in high.parameters())) for type, high in learns.items()} == {
        "head": (True, True),
        "random": (False, False),
    }


def test_the_head_reads_each_question_and_role_apart() -> None:
    head = build_high_level(HeadHighLevel(), 2, 2, NAMES).double()
    with torch.no_grad():
        head.linear.weight.copy_(weight := torch.arange(12, dtype=torch.float64).view(6, 2) / 10)
    pooled = torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=torch.float64)
    for q, log_p in enumerate(head(pooled).log_p):
        for role in range(2):
            logits: Tensor = weight[3 * role : 3 * role + 3] @ pooled[q]
            torch.testing.assert_close(log_p[role], logits.log_softmax(-1))
