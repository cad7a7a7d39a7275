"""Gradient-boosted trees."""

from __future__ import annotations

from typing import ClassVar

from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor

from haps_search.evaluation.references.labelled import Labelled, MaskedRegressor, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats


class Gbdt:
    """scikit-learn's histogram gradient boosting, one per assignment, on the first principal components.

    Trees look at one feature at a time, so hundreds of features that each say little cost time and win nothing.
    Missing cells: each assignment learns from the questions it was measured on.
    """

    reachable: ClassVar[bool] = True

    def __init__(self, components: int, leaves: int, iterations: int) -> None:
        self._components = components
        self._settings = {"max_leaf_nodes": leaves, "max_iter": iterations, "early_stopping": False}

    def fit(self, train: Labelled, seed: int) -> None:
        state = seed % 2**32
        self._axes = PCA(min(self._components, *train.features.shape), random_state=state).fit(train.features)
        self._regressor = MaskedRegressor(
            lambda rows: HistGradientBoostingRegressor(**self._settings, random_state=state), joint=False
        )
        self._regressor.fit(self._axes.transform(train.features), train.rewards)

    def scores(self, questions: Unlabelled) -> Floats:
        return self._regressor.predict(self._axes.transform(questions.features))
