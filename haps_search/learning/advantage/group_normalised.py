"""Rewards standardised within the group of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from haps_search.learning.advantage.advantages import Advantages, peers
from haps_search.types import Assignment

_NO_SPREAD = 1e-9


def group_normalised(rewards: Sequence[float], assignments: Sequence[Assignment]) -> Advantages:
    """c_g = (R_g - mean) / std over the episodes compared with (GRPO: Shao et al. 2024); 0 without spread."""
    everyone = list(range(len(rewards)))
    architecture = tuple(_standardised(rewards, g, everyone) for g in everyone)
    completion = tuple(_standardised(rewards, g, group) for g, group in enumerate(peers(assignments)))
    return Advantages(architecture, completion)


def _standardised(rewards: Sequence[float], own: int, group: Sequence[int]) -> float:
    values = [rewards[g] for g in group]
    spread = pstdev(values)
    return (rewards[own] - fmean(values)) / spread if spread > _NO_SPREAD else 0.0
