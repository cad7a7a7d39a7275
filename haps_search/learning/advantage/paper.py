"""The paper's advantage: the reward itself, or -1 where nothing was earned."""

from __future__ import annotations

from collections.abc import Sequence

from haps_search.learning.advantage.advantages import Advantages
from haps_search.types import Assignment


def paper(rewards: Sequence[float], assignments: Sequence[Assignment]) -> Advantages:
    """c_g = R_g if R_g > 0 else -1, for both levels (arXiv 2601.05903, reward-augmented objective)."""
    advantage = tuple(r if r > 0 else -1.0 for r in rewards)
    return Advantages(advantage, advantage)
