"""Losses over known outcomes: closed forms, gradients, ties and missing cells."""

from __future__ import annotations

import math

import pytest
import torch
from made import normal
from torch import Tensor

from haps_search.config.learning import Contrastive, ExpectedReward, OutcomeLoss, Pairwise, SoftTargets, SquaredError
from haps_search.learning.outcome_loss import LOSSES, outcome_loss

NAN = math.nan
CONFIGS: list[OutcomeLoss] = [
    ExpectedReward(), SoftTargets(temperature=0.3), SoftTargets(temperature=0.0), Pairwise(), Contrastive(margin=0.2),
    SquaredError(temperature=0.2),
]  # fmt: skip
ALL = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.model_dump()))
P = [0.5, 0.3, 0.2]


def log_p(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def paid(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def loss(config: OutcomeLoss, p: list[float], rewards: list[float]) -> float:
    return float(outcome_loss(config, log_p(p), paid(rewards)))


def gradient(config: OutcomeLoss, logits: Tensor, rewards: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    outcome_loss(config, leaf.log_softmax(-1), rewards).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_every_configured_loss_is_in_the_table() -> None:
    assert {c.type for c in CONFIGS} == set(LOSSES)


def test_expected_reward_of_a_row() -> None:
    assert loss(ExpectedReward(), P, [1.0, 0.0, 0.5]) == pytest.approx(-0.6)
    assert loss(ExpectedReward(), P, [NAN, 1.0, 0.0]) == pytest.approx(-0.6)  # 0.3 / (0.3 + 0.2)


def test_soft_targets_are_a_cross_entropy_to_the_exponentiated_rewards() -> None:
    weights = [math.exp(r / 0.5) for r in (1.0, 0.0, 0.5)]
    wanted = -sum(w / sum(weights) * math.log(p) for w, p in zip(weights, P, strict=True))
    assert loss(SoftTargets(temperature=0.5), P, [1.0, 0.0, 0.5]) == pytest.approx(wanted)


def test_at_temperature_zero_the_best_share_the_target_and_missing_cells_have_none() -> None:
    assert loss(SoftTargets(temperature=0), P, [1.0, 1.0, 0.0]) == pytest.approx(-0.5 * math.log(0.5 * 0.3))
    assert loss(SoftTargets(temperature=0), P, [NAN, 1.0, 0.0]) == pytest.approx(-math.log(0.6))
    assert loss(SoftTargets(temperature=0), P, [-1.0, -0.5, NAN]) == pytest.approx(-math.log(0.3 / 0.8))


def test_a_low_temperature_comes_to_the_limit() -> None:
    rewards = [0.7, 0.7, 0.6]
    near, limit = loss(SoftTargets(temperature=1e-3), P, rewards), loss(SoftTargets(temperature=0), P, rewards)
    assert near == pytest.approx(limit, abs=1e-9)


def test_pairwise_counts_all_known_pairs_and_weighs_by_the_difference() -> None:
    def surprise(better: float, worse: float) -> float:
        return -math.log(better / (better + worse))

    three = (1.0 * surprise(0.5, 0.3) + 0.5 * surprise(0.5, 0.2) + 0.5 * surprise(0.2, 0.3)) / 3
    assert loss(Pairwise(), P, [1.0, 0.0, 0.5]) == pytest.approx(three)
    assert loss(Pairwise(), P, [1.0, NAN, 0.5]) == pytest.approx(0.5 * surprise(0.5, 0.2))


def test_squared_error_is_of_differences_within_a_row() -> None:
    logs = [math.log(p) for p in P]
    predicted = [0.5 * (x - sum(logs) / 3) for x in logs]
    errors = [(p - (r - 0.5)) ** 2 for p, r in zip(predicted, (1.0, 0.0, 0.5), strict=True)]
    assert loss(SquaredError(temperature=0.5), P, [1.0, 0.0, 0.5]) == pytest.approx(sum(errors) / 3)
    of_two = 0.5 * math.log(0.5 / 0.2) / 2
    assert loss(SquaredError(temperature=0.5), P, [1.0, NAN, 0.5]) == pytest.approx((of_two - 0.25) ** 2)


def test_squared_error_is_least_where_log_p_is_the_reward_up_to_a_constant() -> None:
    rewards = paid([0.9, 0.1, 0.4], [0.2, NAN, 0.6])
    logits = rewards.nan_to_num(7.0) / 0.5 + torch.tensor([[3.0], [-2.0]], dtype=torch.float64)
    assert float(outcome_loss(SquaredError(temperature=0.5), logits.log_softmax(-1), rewards)) == pytest.approx(0.0)


def test_contrastive_sets_each_good_one_against_the_others_alone() -> None:
    wanted = (-math.log(0.5 / (0.5 + 0.2)) - math.log(0.3 / (0.3 + 0.2))) / 2
    assert loss(Contrastive(margin=0.1), P, [1.0, 0.95, 0.0]) == pytest.approx(wanted)
    assert loss(Contrastive(margin=0.0), P, [1.0, 0.95, 0.0]) == pytest.approx(-math.log(0.5))
    assert loss(Contrastive(margin=0.0), P, [1.0, NAN, 0.0]) == pytest.approx(-math.log(0.5 / 0.7))


@ALL
def test_gradients_are_those_of_the_loss(config: OutcomeLoss) -> None:
    rewards = paid([0.9, 0.1, 0.5, 0.9], [0.2, NAN, 0.8, 0.1], [NAN, NAN, 0.3, NAN], [NAN] * 4, [0.4] * 4)
    logits = normal(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: outcome_loss(config, x.log_softmax(-1), rewards), logits)


@ALL
def test_the_loss_is_the_mean_over_rows_and_an_empty_row_adds_nothing(config: OutcomeLoss) -> None:
    rows = [[0.9, 0.1, 0.5], [0.2, NAN, 0.8]]
    each = [loss(config, P, row) for row in rows]
    three = float(outcome_loss(config, log_p(P, P, P), paid(*rows, [NAN] * 3)))
    assert three == pytest.approx(sum(each) / 3)


@ALL
def test_one_known_cell_moves_nothing(config: OutcomeLoss) -> None:
    assert gradient(config, normal(1, 3), paid([NAN, 0.7, NAN])).abs().max() < 1e-12


@pytest.mark.parametrize("config", [ExpectedReward(), Pairwise(), Contrastive()], ids=lambda c: c.type)
def test_equal_rewards_move_nothing(config: OutcomeLoss) -> None:
    assert gradient(config, normal(1, 3), paid([0.4, 0.4, 0.4])).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_equal_rewards_pull_soft_targets_to_uniform(temperature: float) -> None:
    logits = normal(1, 3)
    found = gradient(SoftTargets(temperature=temperature), logits, paid([0.4, 0.4, 0.4]))
    torch.testing.assert_close(found, logits.softmax(-1) - 1 / 3)


@ALL
def test_descent_ends_with_the_best_and_shares_ties(config: OutcomeLoss) -> None:
    """From uniform, so that by symmetry what ties stays equal."""
    logits = torch.zeros(1, 4, dtype=torch.float64)
    rewards = paid([1.0, 0.0, 1.0, 0.0])
    for _ in range(300):
        logits -= 5.0 * gradient(config, logits, rewards)
    p = logits.softmax(-1)[0]
    assert float(p[0]) == pytest.approx(float(p[2]))
    assert float(p[0] + p[2]) > 0.95


def test_soft_targets_share_ties_from_anywhere() -> None:
    logits = normal(1, 4, seed=3) * 2
    for _ in range(2000):
        logits -= 2.0 * gradient(SoftTargets(temperature=0), logits, paid([1.0, 0.0, 1.0, 0.0]))
    p = logits.softmax(-1)[0]
    assert float(p[0]) == pytest.approx(0.5, abs=0.01)
    assert float(p[2]) == pytest.approx(0.5, abs=0.01)


def test_rewards_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rewards \(1, 1\) for log-probabilities \(1, 3\)"):
        outcome_loss(ExpectedReward(), log_p(P), paid([1.0]))
