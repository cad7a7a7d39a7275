"""Questions as references see them: plain arrays, with or without what each assignment earned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.routes import Floats, assignment_means

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


Columns = NDArray[np.intp]


class MaskedRegressor:
    """Features (N, D) to rewards (N, C); each assignment learns from the questions it was measured on.

    Assignments measured on the same questions share one regressor with several outputs, so a complete table is
    exactly what scikit-learn makes of it. Missing cells are left out, never filled. An assignment without any
    measured cell comes last (`last_where_unknown`).
    """

    def __init__(self, make: Callable[[int], Any], joint: bool = True) -> None:
        """`make` builds an unfitted regressor for a number of training questions; `joint` False gives every
        assignment one of its own, for regressors with a single output."""
        self._make, self._joint = make, joint

    def fit(self, features: Floats, rewards: Floats) -> None:
        self._known: NDArray[np.bool_] = np.any(~np.isnan(rewards), axis=0)
        self._worst = float(np.nanmin(rewards))
        self._parts: list[tuple[Columns, Any]] = []
        for columns, rows in measured_alike(rewards, self._joint):
            wanted = rewards[np.ix_(rows, columns)]
            regressor = self._make(len(rows))
            regressor.fit(features[rows], wanted[:, 0] if len(columns) == 1 else wanted)
            self._parts.append((columns, regressor))

    def predict(self, features: Floats) -> Floats:
        found = np.empty((len(features), len(self._known)))
        for columns, regressor in self._parts:
            found[:, columns] = regressor.predict(features).reshape(len(features), len(columns))
        return last_where_unknown(found, self._known, self._worst)


def last_where_unknown(scores: Floats, known: NDArray[np.bool_], worst: float) -> Floats:
    """Scores (N, C) in which assignments without any measured cell are predicted to earn the worst reward of the
    table, or what the last of the others is predicted to earn, if that is less: nothing speaks for choosing them."""
    least = np.minimum(scores[:, known].min(axis=1, keepdims=True), worst)
    return np.where(known, scores, least)


def measured_alike(rewards: Floats, joint: bool) -> Iterator[tuple[Columns, NDArray[np.intp]]]:
    """Groups of columns that have the same measured rows (single columns, unless `joint`), with those rows.

    Columns without any measured row are left out.
    """
    measured = ~np.isnan(rewards)
    if joint:
        _, group = np.unique(measured, axis=1, return_inverse=True)
    else:
        group = np.arange(measured.shape[1])
    for index in range(int(group.max()) + 1):
        columns = np.flatnonzero(group == index)
        rows = np.flatnonzero(measured[:, columns[0]])
        if len(rows):
            yield columns, rows


class Reference(Protocol):
    """A router that needs no search."""

    reachable: ClassVar[bool]
    """Whether a router could be this good: False for what reads the rewards it is judged by."""

    def fit(self, train: Labelled, seed: int) -> None:
        """Learn from training questions; whatever is drawn follows from the seed.

        Raises:
            ConfigError: the questions lack what this reference needs.
        """
        ...

    def scores(self, questions: Unlabelled) -> Floats:
        """The predicted reward of each assignment on each question, (N, C), finite; the largest is chosen."""
        ...
