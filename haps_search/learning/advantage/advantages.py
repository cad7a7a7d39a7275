"""What an advantage scheme returns, and whom an episode is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.types import Assignment


@dataclass(frozen=True, slots=True)
class Advantages:
    """Per episode of one question (G each): the architecture choice's advantage and its completions'."""

    architecture: tuple[float, ...]
    completion: tuple[float, ...]


def peers(assignments: Sequence[Assignment]) -> list[list[int]]:
    """Per episode, the episodes its completions are judged within, itself included.

    Those of the same assignment where there are others, else all of the question: so the difference
    between candidates does not flow into the adapters.
    """
    everyone = list(range(len(assignments)))
    found = []
    for own in assignments:
        same = [g for g in everyone if assignments[g] == own]
        found.append(same if len(same) > 1 else everyone)
    return found
