"""Distributions over assignments: what is drawn, how likely it is, and how open the choice."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from haps_search.config.routing import FixedHighLevel, HeadHighLevel, LmHighLevel, RandomHighLevel
from haps_search.errors import ConfigError
from haps_search.routing.distribution import AssignmentDistribution, JointDistribution, all_assignments
from haps_search.routing.high_level import Lm, build_high_level

NAMES = ("a", "b", "c")
POOLED = torch.zeros(2, 4, dtype=torch.float64)
# Two questions, two roles, three candidates.
PROBABILITIES = [[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.0, 0.6, 0.4], [1.0, 0.0, 0.0]]]


def two_roles() -> AssignmentDistribution:
    return AssignmentDistribution(torch.tensor(PROBABILITIES, dtype=torch.float64).log().clamp_min(-1e4), NAMES)


def whole() -> JointDistribution:
    """The same distribution, written out over the nine assignments."""
    p = torch.tensor(PROBABILITIES, dtype=torch.float64)
    return JointDistribution((p[:, 0, :, None] * p[:, 1, None, :]).flatten(1).log().clamp_min(-1e4), NAMES, 2)


def tied() -> JointDistribution:
    """Both roles take the same candidate: no product over roles."""
    p = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.2]], dtype=torch.float64)
    return JointDistribution(p.log().clamp_min(-1e4), NAMES, 2)


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


def test_a_product_written_out_is_the_same_distribution() -> None:
    apart, together = two_roles(), whole()
    asked = [[("a", "c"), ("b", "a")], [("b", "a"), ("c", "a")]]
    torch.testing.assert_close(apart.log_probability(asked), together.log_probability(asked))
    torch.testing.assert_close(apart.log_p_all().exp(), together.log_p_all().exp())
    torch.testing.assert_close(apart.marginals(), together.marginals())
    torch.testing.assert_close(apart.entropy(), together.entropy())
    assert apart.best() == together.best()


@pytest.mark.parametrize("found", [two_roles(), whole()], ids=["per role", "joint"])
def test_all_log_probabilities_stand_in_the_order_of_all_assignments(
    found: AssignmentDistribution | JointDistribution,
) -> None:
    everything = all_assignments(NAMES, 2)
    torch.testing.assert_close(found.log_p_all(), found.log_probability([everything, everything]))


def test_marginals_of_three_roles_are_summed_over_the_two_others() -> None:
    p = torch.rand(2, 27, dtype=torch.float64, generator=generator()).softmax(-1)
    found = JointDistribution(p.log(), NAMES, 3).marginals()
    assert found.shape == (2, 3, 3)
    for role in range(3):
        for k, name in enumerate(NAMES):
            mine = [c for c, z in enumerate(all_assignments(NAMES, 3)) if z[role] == name]
            torch.testing.assert_close(found[:, role, k], p[:, mine].sum(-1))


def test_one_role_is_its_own_marginal() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(JointDistribution(p.log(), NAMES, 1).marginals(), p.unsqueeze(1))


def test_a_joint_draw_keeps_roles_together() -> None:
    draws = 20_000
    counts = Counter(tied().sample(draws, generator())[0])
    assert set(counts) == {(name, name) for name in NAMES}
    for name, p in zip(NAMES, (0.5, 0.3, 0.2), strict=True):
        assert counts[name, name] / draws == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / draws))
    assert tied().best() == [[("a", "a")]]
    assert tied().sample(50, generator(3)) == tied().sample(50, generator(3)) != tied().sample(50, generator(4))


def test_joint_entropy_counts_whole_assignments() -> None:
    assert tied().entropy().tolist() == pytest.approx([-sum(p * math.log(p) for p in (0.5, 0.3, 0.2))])


def test_scores_become_a_softmax_over_all_assignments_or_per_role() -> None:
    config = LmHighLevel(temperature=2.0)
    scores = torch.randn(2, 9, dtype=torch.float64, generator=generator())
    together = Lm(config, 2, NAMES, joint=True, learns=True)(scores)
    torch.testing.assert_close(together.log_p_all(), (scores / 2).log_softmax(-1))
    apart = Lm(config, 2, NAMES, joint=False, learns=True)(scores[:, :6])
    assert isinstance(apart, AssignmentDistribution)
    torch.testing.assert_close(apart.log_p[:, 1], (scores[:, 3:6] / 2).log_softmax(-1))
