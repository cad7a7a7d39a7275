"""REINFORCE with the mean of the other episodes as baseline."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from haps_search.learning.advantage.advantages import Advantages, peers
from haps_search.types import Assignment


def leave_one_out(rewards: Sequence[float], assignments: Sequence[Assignment]) -> Advantages:
    """c_g = R_g - mean of R over the other episodes compared with (RLOO: Kool et al. 2019)."""
    everyone = list(range(len(rewards)))
    architecture = tuple(_against(rewards, g, everyone) for g in everyone)
    completion = tuple(_against(rewards, g, group) for g, group in enumerate(peers(assignments)))
    return Advantages(architecture, completion)


def _against(rewards: Sequence[float], own: int, group: Sequence[int]) -> float:
    others = [rewards[g] for g in group if g != own]
    return rewards[own] - fmean(others) if others else 0.0
