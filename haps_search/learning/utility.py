"""What an episode costs, and what is left of its reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from haps_search.config.candidates import CandidateConfig, Price
from haps_search.config.learning import COST_WEIGHT, CostRange, LearningConfig
from haps_search.errors import ConfigError
from haps_search.seeds import derive_seed
from haps_search.tasks.task import KnownOutcomes
from haps_search.types import Episode, Question

PER = 1_000_000
"""Prices stand per million tokens."""


def prices(candidates: Sequence[CandidateConfig]) -> dict[str, Price]:
    return {c.name: c.price for c in candidates}


def cost(episode: Episode, price: Mapping[str, Price]) -> float:
    """Sum over completions of tokens read and written at the candidate's price, in the unit of the prices."""
    return sum(
        (u.sampled.prompt_tokens * price[u.candidate].read + u.sampled.completion_tokens * price[u.candidate].written)
        / PER
        for u in episode.completions
    )


def utilities(
    rewards: Sequence[Sequence[float]],
    episodes: Sequence[Sequence[Episode]],
    price: Mapping[str, Price],
    weight: float,
) -> list[list[float]]:
    """R - weight * cost, per question and episode (Q, G): what advantages are made of."""
    if weight == 0:
        return [list(row) for row in rewards]
    return [
        [reward - weight * cost(episode, price) for reward, episode in zip(paid, row, strict=True)]
        for paid, row in zip(rewards, episodes, strict=True)
    ]


def mean_cost(episodes: Sequence[Episode], price: Mapping[str, Price]) -> float:
    return fmean(cost(episode, price) for episode in episodes)


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
