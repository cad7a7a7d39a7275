"""Losses of the high level where outcomes are known: one file each, a table from the configured name to the loss.

All take log p(z|x) (n, C) over every assignment and rewards (n, C), NaN where a cell is missing, and give the mean
over rows. Missing cells are left out: p is renormalised over a row's known cells, so that no mass is drawn to what
was measured only because it was measured. A row without a known cell contributes 0.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from haps_search.config.learning import OutcomeLoss
from haps_search.learning.outcome_loss.contrastive import contrastive
from haps_search.learning.outcome_loss.expected_reward import expected_reward
from haps_search.learning.outcome_loss.pairwise import pairwise
from haps_search.learning.outcome_loss.soft_targets import soft_targets
from haps_search.learning.outcome_loss.squared_error import squared_error

LOSSES: dict[str, Callable[..., Tensor]] = {
    "expected_reward": expected_reward,
    "soft_targets": soft_targets,
    "pairwise": pairwise,
    "contrastive": contrastive,
    "squared_error": squared_error,
}


def outcome_loss(config: OutcomeLoss, log_p: Tensor, rewards: Tensor) -> Tensor:
    """The configured loss, a scalar. Raises ValueError where the shapes differ."""
    if log_p.shape != rewards.shape:
        raise ValueError(f"rewards {tuple(rewards.shape)} for log-probabilities {tuple(log_p.shape)}: both are (n, C)")
    return LOSSES[config.type](log_p, rewards, **config.model_dump(exclude={"type"}))


__all__ = ["LOSSES", "outcome_loss"]
