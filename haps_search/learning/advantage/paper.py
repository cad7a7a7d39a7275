"""The paper's advantage: the reward itself, or -1 where nothing was earned."""

from __future__ import annotations

from haps_search.learning.advantage.advantages import Advantages, Group


def paper(group: Group) -> Advantages:
    """c_g = R_g if R_g > 0 else -1, for both levels (arXiv 2601.05903, reward-augmented objective).

    R is the reward: what tokens cost does not turn a small one into a failure.
    """
    advantage = tuple(r if r > 0 else -1.0 for r in group.rewards)
    return Advantages(advantage, advantage)
