"""What a policy would have earned, from a log in which each question was answered once.

With x_i a question, a_i what the log chose on it, r_i what that earned, p_i the probability with which it was chosen,
pi(a|x) the policy that is asked about and w_i = pi(a_i|x_i) / p_i (Dudik, Langford and Li, "Doubly Robust Policy
Evaluation and Learning", ICML 2011; effective sample size after Kish, 1965):

    inverse propensity   V = mean of w_i r_i
    self-normalised      V = sum of w_i r_i / sum of w_i
    doubly robust        V = mean of sum_a pi(a|x_i) q(x_i, a) + w_i (r_i - q(x_i, a_i))

where q predicts rewards, learnt from the log's other folds. Intervals are 95 % and normal: of a mean over questions,
and for the self-normalised one by linearisation. They take the propensities as known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, Z

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERATED = 0.01
"""So much of a policy's probability may lie where the log has nothing; rewards in [0, 1] bound the bias by it."""
SURE = 3.290526731491926
"""Standard errors of a two-sided 99.9 % interval: a log is not turned away by chance."""
SHORT = 0.9
"""Support is missing where surely less than this part of what the policy asks of a model is covered."""
LEAST_EFFECTIVE = 30
"""Normal intervals need so many questions, after weighting."""


@dataclass(frozen=True)
class Log:
    """N choices among C actions, each (N,): `actions` are columns, `rewards` in [0, 1], `propensities` in (0, 1]."""

    actions: Ints
    rewards: Floats
    propensities: Floats

    def __post_init__(self) -> None:
        shape = self.actions.shape
        if len(shape) != 1 or self.rewards.shape != shape or self.propensities.shape != shape or not shape[0]:
            raise ValueError(
                f"log: got {shape}, {self.rewards.shape}, {self.propensities.shape}, needs (N,) alike, N > 0"
            )
        if not ((self.propensities > 0) & (self.propensities <= 1)).all():
            raise ValueError("propensities: got some outside (0, 1]")

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Estimates:
    """What a policy would have earned by each estimator, and of how many questions that is worth."""

    inverse_propensity: Interval
    self_normalised: Interval
    doubly_robust: Interval
    effective: float


def estimates(log: Log, policy: Floats, predicted: Floats) -> Estimates:
    """All three estimators; `policy` (N, C) are probabilities, `predicted` (N, C) rewards q of the same questions."""
    weights = importance_weights(log, policy)
    return Estimates(
        _mean(weights * log.rewards),
        self_normalised(weights, log.rewards),
        _mean(doubly_robust_terms(log, policy, predicted)),
        effective_sample_size(weights),
    )


def importance_weights(log: Log, policy: Floats) -> Floats:
    """w_i, (N,). Raises ValueError where rows of the policy are no distributions over as many questions."""
    if len(policy) != len(log) or not np.allclose(policy.sum(axis=1), 1, atol=1e-6) or (policy < 0).any():
        raise ValueError(f"policy: got {policy.shape}, needs ({len(log)}, C), each row a distribution")
    return np.asarray(policy[np.arange(len(log)), log.actions] / log.propensities, np.float64)


def self_normalised(weights: Floats, rewards: Floats) -> Interval:
    """Of weights (N,) and rewards (N,); se = sqrt(sum of w_i^2 (r_i - V)^2) / sum of w_i. Without weight it is NaN."""
    total = weights.sum()
    if total == 0:
        return Interval(math.nan, math.nan, math.nan, len(weights))
    value = float(weights @ rewards / total)
    half = Z * float(np.sqrt(((weights * (rewards - value)) ** 2).sum()) / total)
    return Interval(value, value - half, value + half, len(weights))


def doubly_robust_terms(log: Log, policy: Floats, predicted: Floats) -> Floats:
    """What each question adds to the doubly robust mean, (N,); with predictions of 0 it is w_i r_i."""
    weights = importance_weights(log, policy)
    residual = log.rewards - predicted[np.arange(len(log)), log.actions]
    return np.asarray((policy * predicted).sum(axis=1) + weights * residual, np.float64)


def effective_sample_size(weights: Floats) -> float:
    """(sum of w)^2 / sum of w^2: N where all weigh the same, 1 where one outweighs the rest, 0 without any weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def difference(terms: Floats, others: Floats) -> Interval:
    """The mean of paired differences of what questions add, (N,) each."""
    return _mean(terms - others)


def predicted_rewards(
    features: Floats, log: Log, folds: Ints, actions: int, ridge: float = 1.0, within: tuple[float, float] = (0.0, 1.0)
) -> Floats:
    """q (N, C): per action a ridge regression of rewards on features (N, D), each fold predicted by what the others
    taught, kept `within` what rewards can be.

    The intercept is not penalised, so little data gives the action's mean; an action that the other folds have not,
    gets the mean of all. Raises ValueError for fewer than two folds.
    """
    if len(np.unique(folds)) < 2:
        raise ValueError(f"folds: got {len(np.unique(folds))}, needs 2, so that no question predicts itself")
    found = np.empty((len(log), actions))
    for fold in np.unique(folds):
        held, learnt = folds == fold, folds != fold
        overall = float(log.rewards[learnt].mean())
        for action in range(actions):
            rows = learnt & (log.actions == action)
            found[held, action] = _ridge(features[rows], log.rewards[rows], features[held], ridge, overall)
    return np.clip(found, *within)


def _ridge(x: Floats, y: Floats, asked: Floats, penalty: float, otherwise: float) -> Floats | float:
    if not len(y):
        return otherwise
    centre, mean = x.mean(axis=0), float(y.mean())
    spread = x - centre
    gram = spread.T @ spread
    gram.flat[:: len(gram) + 1] += penalty
    return np.asarray((asked - centre) @ np.linalg.solve(gram, spread.T @ (y - mean)) + mean, np.float64)


@dataclass(frozen=True)
class Support:
    """How much of what a policy asks of an action the log covers.

    `asked` is the mean of pi(a|x) over the questions; `covered` what the log says of it, the mean of 1[a_i = a] w_i,
    which is the same in expectation where the action could be chosen on every question that the policy gives it.
    Then its standard error is `error` at most: sqrt(asked / (N p)), p the action's least propensity. `logged` questions
    had the action.
    """

    action: int
    asked: float
    covered: float
    error: float
    logged: int

    @property
    def least(self) -> float:
        """What the log would surely cover, were all of it supported."""
        return min(SHORT * self.asked, self.asked - SURE * self.error)

    @property
    def missing(self) -> bool:
        """Whether the log surely lacks part of it, beyond what is tolerated."""
        return self.asked > TOLERATED and (not self.logged or self.covered < self.least)


def support(log: Log, policy: Floats) -> tuple[Support, ...]:
    """The support of each action, in the columns' order."""
    weights = importance_weights(log, policy)
    found = []
    for action in range(policy.shape[1]):
        taken = log.actions == action
        asked, logged = float(policy[:, action].mean()), int(taken.sum())
        covered = float(np.where(taken, weights, 0.0).mean())
        least = float(log.propensities[taken].min()) if logged else 1.0
        found.append(Support(action, asked, covered, math.sqrt(asked / (len(log) * least)), logged))
    return tuple(found)


def refusal(log: Log, policy: Floats, names: Sequence[str]) -> str | None:
    """Why the log cannot say what a policy would have earned, with the numbers; None where it can."""
    lacking = [each for each in support(log, policy) if each.missing]
    if lacking:
        said = "; ".join(
            f"the policy gives {names[s.action]} {s.asked:.1%} of the questions, and the log, which has it "
            f"{s.logged:,} times, covers {s.covered:.1%} (with support it would be {max(s.least, 0):.1%} at least)"
            for s in lacking
        )
        return f"support is missing: {said}"
    weights = importance_weights(log, policy)
    mean, half = float(weights.mean()), SURE * _error(weights)
    if mean - half > 1 / SHORT:
        return (
            f"the weights average {mean:.2f} [{mean - half:.2f}, {mean + half:.2f}] and should average 1: the "
            "propensities are smaller than the log's choices tell"
        )
    effective = effective_sample_size(weights)
    if effective < LEAST_EFFECTIVE:
        return f"{len(log):,} questions weigh as much as {effective:.1f}, and an interval needs {LEAST_EFFECTIVE}"
    return None


def _mean(values: Floats) -> Interval:
    mean, half = float(values.mean()), Z * _error(values)
    return Interval(mean, mean - half, mean + half, len(values))


def _error(values: Floats) -> float:
    """The standard error of a mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
