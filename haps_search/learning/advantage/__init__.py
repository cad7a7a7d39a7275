"""Advantage schemes: one file each, a table from the configured name to the scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from haps_search.learning.advantage.advantages import Advantages
from haps_search.learning.advantage.group_normalised import group_normalised
from haps_search.learning.advantage.leave_one_out import leave_one_out
from haps_search.learning.advantage.paper import paper
from haps_search.types import Assignment

Scheme = Callable[[Sequence[float], Sequence[Assignment]], Advantages]

SCHEMES: dict[str, Scheme] = {
    "paper": paper,
    "leave_one_out": leave_one_out,
    "group_normalised": group_normalised,
}

__all__ = ["SCHEMES", "Advantages", "Scheme"]
