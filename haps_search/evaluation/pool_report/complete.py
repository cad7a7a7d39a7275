"""The questions that every model answered: only on these can choices between models be compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import filled, prices
from haps_search.tasks.outcome_table import OutcomeTable


@dataclass(frozen=True)
class Complete:
    """M questions without gaps: `rewards` (M, C) float64, `costs` (M, C) or None, `best` the best single column.

    Where a cost is missing, the model's mean cost stands in, or the dearest one's where it has none.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    rewards: NDArray[np.float64]
    samples: NDArray[np.int32]
    costs: NDArray[np.float64] | None
    best: int


def complete(table: OutcomeTable) -> Complete | None:
    """The complete part of a table, None where no question is complete. Of equally good models the cheaper is best."""
    rows = np.flatnonzero(~np.isnan(table.rewards).any(axis=1))
    if not len(rows):
        return None
    rewards = table.rewards[rows].astype(np.float64)
    costs = _costs(table)
    return Complete(
        names=names(table),
        texts=tuple(table.questions[i].text for i in rows),
        tasks=tuple(table.tasks[i] for i in rows),
        rewards=rewards,
        samples=table.samples[rows],
        costs=None if costs is None else costs[rows],
        best=_best(rewards, costs),
    )


def names(table: OutcomeTable) -> tuple[str, ...]:
    """A model's name; of several roles, all names."""
    return tuple(", ".join(assignment) for assignment in table.assignments)


def _costs(table: OutcomeTable) -> NDArray[np.float64] | None:
    if table.costs is None or np.isnan(table.costs).all():
        return None
    return filled(table.costs, prices(table.costs))


def _best(rewards: NDArray[np.float64], costs: NDArray[np.float64] | None) -> int:
    means = rewards.mean(axis=0)
    paid = np.zeros(len(means)) if costs is None else costs.mean(axis=0)
    best = np.flatnonzero(np.isclose(means, means.max(), rtol=0, atol=1e-12))
    return int(best[np.argsort(paid[best], kind="stable")[0]])
