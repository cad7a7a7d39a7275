"""Rewards standardised within the group of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from haps_search.learning.advantage.advantages import Advantages, Group, peers

LEAST_SPREAD = 0.1
"""In units of reward. A group of fewer than 99 rewards of 0 and 1 deviates by more, or not at all; smaller differences,
such as those of what tokens cost, would otherwise weigh as much as being right or wrong."""


def group_normalised(group: Group) -> Advantages:
    """c_g = (U_g - mean) / max(std, 0.1) over the episodes compared with (GRPO: Shao et al. 2024), U the utility.

    A completion that is alone with its assignment is standardised by what its candidates earned before, and has 0
    where nothing is known.
    """
    utilities, everyone = group.utilities, range(len(group.utilities))
    architecture = tuple(_within(utilities, g, everyone) for g in everyone)
    completion = []
    for g, (same, before) in enumerate(zip(peers(group.assignments), group.before, strict=True)):
        alone = 0.0 if before is None else _standardised(utilities[g], before.mean, before.spread)
        completion.append(_within(utilities, g, same) if len(same) > 1 else alone)
    return Advantages(architecture, tuple(completion))


def _within(utilities: Sequence[float], own: int, group: Sequence[int]) -> float:
    values = [utilities[g] for g in group]
    return _standardised(utilities[own], fmean(values), pstdev(values))


def _standardised(value: float, mean: float, spread: float) -> float:
    return (value - mean) / max(spread, LEAST_SPREAD)
