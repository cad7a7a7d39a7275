"""What a policy would have earned: closed forms by hand, coverage on a made problem, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from haps_search.evaluation.intervals import Z
from haps_search.evaluation.off_policy import (
    Estimates,
    Floats,
    Ints,
    Log,
    difference,
    doubly_robust_terms,
    effective_sample_size,
    estimates,
    importance_weights,
    predicted_rewards,
    refusal,
    support,
)

HAND = Log(np.array([0, 1, 0, 1]), np.array([1.0, 0.5, 0.0, 1.0]), np.array([0.5, 0.25, 0.5, 0.5]))
POLICY = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
PREDICTED = np.array([[0.5, 0.0], [0.0, 0.25], [0.5, 1.0], [1.0, 0.5]])


def test_the_estimators_by_hand() -> None:
    """w = (2, 4, 1, 0)."""
    assert_allclose(importance_weights(HAND, POLICY), [2, 4, 1, 0])
    found = estimates(HAND, POLICY, PREDICTED)
    terms = np.array([2, 2, 0, 0])
    assert found.inverse_propensity.mean == 1.0
    assert found.inverse_propensity.high - 1 == pytest.approx(Z * terms.std(ddof=1) / 2)
    assert found.self_normalised.mean == pytest.approx(4 / 7)
    # sqrt(4 * (3/7)^2 + 16 * (1/14)^2 + (4/7)^2) / 7
    error = math.sqrt(4 * 9 / 49 + 16 / 196 + 16 / 49) / 7
    assert found.self_normalised.high - 4 / 7 == pytest.approx(Z * error)
    # sum_a pi q = (0.5, 0.25, 0.75, 1); w (r - q) = (2 * 0.5, 4 * 0.25, 1 * -0.5, 0)
    assert_allclose(doubly_robust_terms(HAND, POLICY, PREDICTED), [1.5, 1.25, 0.25, 1.0])
    assert found.doubly_robust.mean == 1.0
    assert found.effective == pytest.approx(49 / 21)


def test_the_logs_own_policy_earns_what_the_log_earned() -> None:
    """Weights of 1: all estimators are the plain mean, whatever is predicted for what was not chosen."""
    draw = np.random.default_rng(0)
    policy = draw.dirichlet(np.ones(3), 200)
    actions = np.array([draw.choice(3, p=row) for row in policy])
    log = Log(actions, draw.random(200), policy[np.arange(200), actions])
    found = estimates(log, policy, np.zeros((200, 3)))
    for interval in (found.inverse_propensity, found.self_normalised, found.doubly_robust):
        assert interval.mean == pytest.approx(log.rewards.mean())
    assert found.effective == pytest.approx(200)


def test_perfect_predictions_leave_no_noise_of_the_log() -> None:
    """Doubly robust with the truth for q is the policy's value on these very questions, whatever was drawn."""
    draw = np.random.default_rng(1)
    rewards, policy = draw.random((50, 3)), draw.dirichlet(np.ones(3), 50)
    actions = draw.integers(3, size=50)
    log = Log(actions, rewards[np.arange(50), actions], np.full(50, 1 / 3))
    assert_allclose(doubly_robust_terms(log, policy, rewards), (policy * rewards).sum(axis=1))


def test_effective_sizes() -> None:
    assert effective_sample_size(np.ones(7)) == 7
    assert effective_sample_size(np.array([5.0, 0, 0])) == 1
    assert effective_sample_size(np.zeros(3)) == 0
    assert math.isnan(estimates(HAND, np.array([[0.0, 1], [1, 0], [0, 1], [1, 0]]), PREDICTED).self_normalised.mean)


def test_differences_are_paired() -> None:
    found = difference(np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5]))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (lambda: Log(np.array([0]), np.array([1.0]), np.array([0.0])), r"outside \(0, 1\]"),
        (lambda: Log(np.array([0]), np.array([1.0]), np.array([1.5])), r"outside \(0, 1\]"),
        (lambda: Log(np.array([0, 1]), np.array([1.0]), np.array([0.5])), "needs"),
        (lambda: importance_weights(HAND, POLICY * 0.9), "each row a distribution"),
        (lambda: importance_weights(HAND, POLICY[:2]), "needs"),
        (lambda: predicted_rewards(np.ones((4, 1)), HAND, np.zeros(4, np.int64), 2), "folds: got 1"),
    ],
)
def test_what_is_no_log_or_policy_is_refused(log, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        log()


def test_a_question_does_not_predict_itself() -> None:
    """With one feature that names the question, only the mean of the others can be told of it."""
    log = Log(np.zeros(6, np.int64), np.array([1.0, 1, 1, 0, 0, 0]), np.full(6, 0.5))
    folds = np.array([0, 1, 2, 0, 1, 2])
    found = predicted_rewards(np.eye(6), log, folds, 2, ridge=1e-9)
    assert_allclose(found[:, 0], 0.5, atol=1e-6)
    # Nobody tried the second action: the mean of what the other folds earned.
    assert_allclose(found[:, 1], 0.5)


def test_predictions_by_hand() -> None:
    """y = x exactly; with penalty k and spread S the slope is S / (S + k)."""
    x = np.array([[0.0], [1.0], [0.0], [1.0]])
    log = Log(np.zeros(4, np.int64), x[:, 0], np.full(4, 0.5))
    found = predicted_rewards(x, log, np.array([0, 0, 1, 1]), 1, ridge=0.5)
    # S = 0.5 in each fold of two, so the slope is a half around 0.5.
    assert_allclose(found[:, 0], [0.25, 0.75, 0.25, 0.75])


def made(seed: int, count: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Features, what each of three actions would earn, the log's probabilities (0.1 at least), and a policy."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 3))
    chance = 1 / (1 + np.exp(-features @ np.array([[1.0, -1, 0], [0, 1, -1], [0.5, 0, 0.5]])))
    rewards = (draw.random((count, 3)) < chance).astype(np.float64)
    liking = np.exp(features[:, ::-1])
    logging = 0.1 + 0.7 * liking / liking.sum(axis=1, keepdims=True)
    return features, rewards, logging, np.eye(3)[features.argmax(axis=1)]


def drawn(seed: int, rewards: Floats, logging: Floats, count: int = 400) -> tuple[Ints, Log]:
    """Questions with replacement, one action each."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(len(rewards), size=count)
    chosen = (draw.random((count, 1)) > logging[rows].cumsum(axis=1)).sum(axis=1)
    return rows, Log(chosen, rewards[rows, chosen], logging[rows, chosen])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    features, rewards, logging, policy = made(0, 3000)
    truth = float((policy * rewards).sum(axis=1).mean())
    covered = dict.fromkeys(("inverse_propensity", "self_normalised", "doubly_robust"), 0)
    widths = dict.fromkeys(covered, 0.0)
    repetitions = 300
    for seed in range(repetitions):
        rows, log = drawn(seed + 1, rewards, logging)
        predicted = predicted_rewards(features[rows], log, rows % 5, 3)
        found: Estimates = estimates(log, policy[rows], predicted)
        for name in covered:
            interval = getattr(found, name)
            covered[name] += interval.low <= truth <= interval.high
            widths[name] += (interval.high - interval.low) / repetitions
    for name, count in covered.items():
        assert 0.91 < count / repetitions < 0.985, f"{name}: {count} of {repetitions}"
    assert widths["doubly_robust"] < widths["self_normalised"] < widths["inverse_propensity"]


def test_intervals_of_wrong_propensities_miss() -> None:
    """The coverage test above can fail: with other propensities than the log had, weighting misses."""
    _, rewards, logging, policy = made(0, 3000)
    truth = float((policy * rewards).sum(axis=1).mean())
    missed = 0
    for seed in range(30):
        rows, log = drawn(seed + 1, rewards, logging)
        wrong = Log(log.actions, log.rewards, np.full(400, 0.5))
        interval = estimates(wrong, policy[rows], np.zeros((400, 3))).inverse_propensity
        missed += not interval.low <= truth <= interval.high
    assert missed > 15


NAMES = ("a", "b", "c")


def test_an_action_that_the_log_never_took_is_refused_with_its_share() -> None:
    _, rewards, logging, policy = made(2, 400)
    without = logging.copy()
    without[:, 2] = 0
    without /= without.sum(axis=1, keepdims=True)
    rows, log = drawn(3, rewards, without)
    asked = policy[rows]
    said = refusal(log, asked, NAMES)
    assert said is not None
    share = asked[:, 2].mean()
    assert f"the policy gives c {share:.1%} of the questions, and the log, which has it 0 times, covers 0.0%" in said


def test_support_that_is_missing_on_some_questions_only_is_seen() -> None:
    """The log's router always takes the policy's second choice where the first feature is large: every action is
    logged, with propensity 1, and never where the policy wants it."""
    features, rewards, logging, policy = made(4, 4000)
    rows, log = drawn(5, rewards, logging, 1200)
    assert refusal(log, policy[rows], NAMES) is None
    blind = features[rows, 0] > 0.5
    fixed = np.where(blind, (policy[rows].argmax(axis=1) + 1) % 3, log.actions)
    wrong = Log(fixed, rewards[rows, fixed], np.where(blind, 1.0, log.propensities))
    said = refusal(wrong, policy[rows], NAMES)
    assert said is not None
    (lacking,) = [each for each in support(wrong, policy[rows]) if each.missing]
    assert NAMES[lacking.action] == "a"
    assert f"covers {lacking.covered:.1%}" in said
    assert 0 < lacking.covered < lacking.asked


def test_an_action_that_is_asked_for_on_few_questions_is_not_refused_by_chance() -> None:
    """20 of 1,000 questions ask for it where the log takes it with 0.05: one match is expected, none is common."""
    draw, refused = np.random.default_rng(0), 0
    for _ in range(200):
        policy = np.zeros((1000, 2))
        policy[:, 0] = 1
        policy[:20] = [0, 1]
        actions = (draw.random(1000) < 0.05).astype(np.int64)
        log = Log(actions, draw.random(1000), np.where(actions == 1, 0.05, 0.95))
        refused += refusal(log, policy, NAMES) is not None
    assert refused == 0


def test_a_little_probability_outside_the_support_is_tolerated() -> None:
    log = Log(np.tile([0, 1], 50), np.tile([1.0, 0.0], 50), np.full(100, 0.5))
    assert refusal(log, np.tile([0.496, 0.496, 0.008], (100, 1)), NAMES) is None
    assert refusal(log, np.tile([0.49, 0.49, 0.02], (100, 1)), NAMES) is not None


def test_few_effective_questions_and_wrong_propensities_are_refused() -> None:
    few = Log(np.array([0, 1] * 10), np.ones(20), np.full(20, 0.5))
    assert refusal(few, np.tile([0.5, 0.5], (20, 1)), NAMES) == (
        "20 questions weigh as much as 20.0, and an interval needs 30"
    )
    low = Log(np.array([0, 1] * 100), np.ones(200), np.full(200, 0.25))
    said = refusal(low, np.tile([0.5, 0.5], (200, 1)), NAMES)
    assert said is not None
    assert said.startswith("the weights average 2.00 [2.00, 2.00] and should average 1")
