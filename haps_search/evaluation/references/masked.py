"""scikit-learn's regressors over a table with missing cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import Floats

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
