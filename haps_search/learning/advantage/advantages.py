"""What an advantage scheme reads and returns, and whom an episode is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.learning.advantage.running_means import Earned
from haps_search.types import Assignment


@dataclass(frozen=True, slots=True)
class Group:
    """The G episodes of one question: rewards, utilities (reward less weighted cost) and assignments.

    `before` is what each episode's candidates earned on average in earlier steps; None where they never spoke.
    """

    rewards: Sequence[float]
    utilities: Sequence[float]
    assignments: Sequence[Assignment]
    before: Sequence[Earned | None]


@dataclass(frozen=True, slots=True)
class Advantages:
    """Per episode of one question (G each): the architecture choice's advantage and its completions'."""

    architecture: tuple[float, ...]
    completion: tuple[float, ...]


def peers(assignments: Sequence[Assignment]) -> list[list[int]]:
    """Per episode, the episodes of the same assignment, itself included.

    Its completions are judged within these, or where it is alone by `Group.before`: so the difference between
    candidates does not flow into the adapters.
    """
    return [[g for g, other in enumerate(assignments) if other == own] for own in assignments]
