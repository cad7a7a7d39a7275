"""Questions as references see them: plain arrays, with or without what each assignment earned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import Floats, assignment_means

Rows = NDArray[np.integer[Any]] | NDArray[np.bool_]


@dataclass(frozen=True)
class Unlabelled:
    """N questions: `features` (N, D), and the name of each question's task."""

    features: Floats
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.tasks):
            raise ValueError(f"features: got {self.features.shape}, needs ({len(self.tasks)}, D), a row per question")
        if not np.isfinite(self.features).all():
            raise ValueError("features: got numbers that are not finite")

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True)
class Labelled(Unlabelled):
    """Questions with what C assignments earned and cost on them.

    `rewards` (N, C) and `costs` (N, C) are NaN where a cell was not measured; `costs` is None where nobody knows
    them. Raises ValueError for a question without any reward, since nothing can be said of it.
    """

    rewards: Floats
    costs: Floats | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rewards.ndim != 2 or len(self.rewards) != len(self):
            raise ValueError(f"rewards: got {self.rewards.shape}, needs ({len(self)}, C), a row per question")
        if self.costs is not None and self.costs.shape != self.rewards.shape:
            raise ValueError(f"costs: got {self.costs.shape}, needs the rewards' {self.rewards.shape}")
        empty = np.flatnonzero(np.isnan(self.rewards).all(axis=1))
        if len(empty):
            raise ValueError(f"rewards: {len(empty)} questions have none (row {empty[0]} first): leave them out")
        if np.isinf(self.rewards).any():
            raise ValueError("rewards: got infinite ones")

    def take(self, rows: Rows) -> Labelled:
        """The questions of these rows."""
        costs = None if self.costs is None else self.costs[rows]
        tasks = tuple(np.asarray(self.tasks, dtype=object)[rows])
        return Labelled(self.features[rows], tasks, self.rewards[rows], costs)

    def unlabelled(self) -> Unlabelled:
        """What a router may see of them."""
        return Unlabelled(self.features, self.tasks)


def mean_rewards(rewards: Floats) -> NDArray[np.float64]:
    """Mean reward per assignment, (C,). One that was never measured counts as the worst reward there is: nothing
    speaks for choosing it."""
    means = assignment_means(rewards)
    return np.where(np.isnan(means), np.nanmin(rewards), means)
