"""Whether what is predicted comes true: reliability bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.evaluation.references.measure import Measured
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.evaluation.routing_metrics.routes import earned

BINS = 10
PREDICTS_REWARDS = ("knn", "ridge", "mlp", "matrix_factorisation", "gbdt")
"""References whose scores are rewards that they expect of this question; of the others they are rankings or means."""


@dataclass(frozen=True, slots=True)
class Bin:
    """`count` predictions alike: their mean, and the mean of what came of them."""

    predicted: float
    realised: float
    count: int


def reliability(predicted: Floats, realised: Floats, bins: int = BINS) -> tuple[Bin, ...]:
    """At most `bins` bins of about as many of the M predictions each, ascending; equal predictions share one.

    The points of a reliability diagram (Niculescu-Mizil and Caruana, 2005, with bins of equal counts instead of
    equal widths). Raises ValueError without predictions, or where shapes differ.
    """
    if not predicted.size or predicted.shape != realised.shape:
        raise ValueError(f"predicted: got {predicted.shape} for {realised.shape}, needs one for each, one at least")
    _, value, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    middles = (np.cumsum(counts) - counts / 2) / len(predicted)
    which = (bins * middles).astype(int)[value]
    groups = [which == index for index in np.unique(which)]
    return tuple(Bin(float(predicted[g].mean()), float(realised[g].mean()), int(g.sum())) for g in groups)


def of_choices(policies: Sequence[Policy], rewards: Floats) -> tuple[Bin, ...]:
    """The probability of the likeliest measured assignment, against its share of the question's best: 1 / n where it
    is one of n with the highest reward, else 0.

    That is what the probability means to a router that learns who is best, where equal ones share. All S policies
    count. Ties of the likeliest share the question, as they do when it is routed.
    """
    best = (rewards == np.nanmax(rewards, axis=1, keepdims=True)).astype(np.float64)
    best /= best.sum(axis=1, keepdims=True)
    said = [policy.sampled(rewards).max(axis=1) for policy in policies]
    came = [earned(policy.greedy(rewards), best) for policy in policies]
    return reliability(np.concatenate(said), np.concatenate(came))


def of_scores(scores: Floats, rewards: Floats) -> tuple[Bin, ...]:
    """The predicted score of every measured cell, against the cell."""
    known = ~np.isnan(rewards)
    return reliability(scores[known], rewards[known])


def best_predictor(measured: Sequence[Measured]) -> Measured | None:
    """The reference that predicts rewards and did best where it was tuned; None where none was compared."""
    able = [each for each in measured if each.type in PREDICTS_REWARDS]
    return max(able, key=lambda each: each.validation, default=None)
