"""Rewards linear in the features."""

from __future__ import annotations

from typing import ClassVar

from sklearn.linear_model import Ridge as RidgeRegressor

from haps_search.evaluation.references.labelled import Labelled, MaskedRegressor, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats


class Ridge:
    """A linear score per assignment with intercept: squared error plus `alpha` times the squared weights.

    Missing cells: each assignment learns from the questions it was measured on.
    """

    reachable: ClassVar[bool] = True

    def __init__(self, alpha: float) -> None:
        self._regressor = MaskedRegressor(lambda rows: RidgeRegressor(alpha=alpha))

    def fit(self, train: Labelled, seed: int) -> None:
        self._regressor.fit(train.features, train.rewards)

    def scores(self, questions: Unlabelled) -> Floats:
        return self._regressor.predict(questions.features)
