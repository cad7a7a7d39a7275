"""REINFORCE with the mean of the other episodes as baseline."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from haps_search.learning.advantage.advantages import Advantages, Group, peers


def leave_one_out(group: Group) -> Advantages:
    """c_g = U_g - mean of U over the other episodes compared with (RLOO: Kool et al. 2019), U the utility.

    A completion that is alone with its assignment: U_g - what its candidates earned before, 0 where nothing is known.
    """
    utilities, everyone = group.utilities, range(len(group.utilities))
    architecture = tuple(_against(utilities, g, everyone) for g in everyone)
    completion = []
    for g, (same, before) in enumerate(zip(peers(group.assignments), group.before, strict=True)):
        alone = 0.0 if before is None else utilities[g] - before.mean
        completion.append(_against(utilities, g, same) if len(same) > 1 else alone)
    return Advantages(architecture, tuple(completion))


def _against(utilities: Sequence[float], own: int, group: Sequence[int]) -> float:
    others = [utilities[g] for g in group if g != own]
    return utilities[own] - fmean(others) if others else 0.0
