"""Advantage schemes: one file each, a table from the configured name to the scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from haps_search.learning.advantage.advantages import Advantages, Group
from haps_search.learning.advantage.group_normalised import group_normalised
from haps_search.learning.advantage.leave_one_out import leave_one_out
from haps_search.learning.advantage.paper import paper
from haps_search.learning.advantage.running_means import RunningMeans
from haps_search.types import Assignment

Scheme = Callable[[Group], Advantages]

SCHEMES: dict[str, Scheme] = {
    "paper": paper,
    "leave_one_out": leave_one_out,
    "group_normalised": group_normalised,
}


def judged(
    scheme: str,
    assignments: Sequence[Sequence[Assignment]],
    rewards: Sequence[Sequence[float]],
    utilities: Sequence[Sequence[float]],
    means: RunningMeans,
) -> list[Advantages]:
    """Advantages of Q questions' episodes, (Q, G) each; `means` are those of the steps before."""
    rows = zip(rewards, utilities, assignments, strict=True)
    return [SCHEMES[scheme](Group(paid, worth, zs, [means.of(z) for z in zs])) for paid, worth, zs in rows]


__all__ = ["SCHEMES", "Advantages", "Group", "RunningMeans", "Scheme", "judged"]
