"""The assignment that costs least."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from haps_search.errors import ConfigError
from haps_search.evaluation.references.labelled import Labelled, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats, assignment_means


class Cheapest:
    """Minus each assignment's mean cost over its measured training cells: a ranking, not a predicted reward.

    An assignment whose cost was never measured counts as the dearest.
    """

    reachable: ClassVar[bool] = True

    def fit(self, train: Labelled, seed: int) -> None:
        means = None if train.costs is None else assignment_means(train.costs)
        if means is None or np.isnan(means).all():
            raise ConfigError("cheapest: the table has no costs: name its cost columns, or leave `cheapest` out")
        self._means = np.where(np.isnan(means), np.nanmax(means), means)

    def scores(self, questions: Unlabelled) -> Floats:
        return np.tile(-self._means, (len(questions), 1))
