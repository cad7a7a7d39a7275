"""What whole rows of a table teach: rewards, drawn towards their task's mean, less what cost weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from haps_search.config.learning import CostRange, LearningConfig
from haps_search.errors import ConfigError
from haps_search.routing.features_backbone import COST_WEIGHT
from haps_search.seeds import derive_seed
from haps_search.tasks.task import KnownOutcomes
from haps_search.types import Question

Floats = NDArray[np.float64]
MEASURED = 9
"""At so many weights of cost a router that reads them is measured."""


def utility(known: KnownOutcomes, weights: Floats, smoothing: float = 0.0) -> Floats:
    """(Q, K): (1 - smoothing) * reward + smoothing * task mean - weight * cost; NaN where the table has no cell.

    `weights` are (Q,). Costs are in units of the dearest model's mean training cost.

    Raises:
        ConfigError: cost weighs, and the table has none.
    """
    value = (1 - smoothing) * known.rewards.astype(np.float64) + smoothing * known.task_means
    if not weights.any():
        return np.where(np.isnan(known.rewards), np.nan, value)
    if known.costs is None:
        raise ConfigError("learning: cost weighs (cost_weight, cost_conditioned), but the table has no costs")
    return np.asarray(value - weights[:, None] * known.costs, np.float64)


def weighted(questions: Sequence[Question], learning: LearningConfig, seed: int) -> tuple[list[Question], Floats]:
    """Questions that say what their cost weighs, where the router reads it, and these weights (Q,)."""
    if learning.cost_conditioned is None:
        return list(questions), np.full(len(questions), learning.cost_weight)
    low, high = math.log(learning.cost_conditioned.low), math.log(learning.cost_conditioned.high)
    draws = np.random.default_rng(derive_seed(seed, "cost weight")).uniform(low, high, len(questions))
    weights = np.exp(draws)
    return [with_cost_weight(q, w) for q, w in zip(questions, weights.tolist(), strict=True)], weights


def with_cost_weight(question: Question, weight: float) -> Question:
    """The question with what its cost weighs."""
    return replace(question, attributes={**question.attributes, COST_WEIGHT: weight})


def measured_weights(limits: CostRange) -> list[float]:
    """Weights of cost at which a conditioned router is measured: evenly spaced in their logarithm, ends included."""
    return [float(w) for w in np.geomspace(limits.low, limits.high, MEASURED)]
