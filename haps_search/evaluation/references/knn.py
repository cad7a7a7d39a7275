"""What the nearest training questions earned."""

from __future__ import annotations

from typing import ClassVar

from sklearn.neighbors import KNeighborsRegressor

from haps_search.evaluation.references.labelled import Labelled, MaskedRegressor, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats


class Knn:
    """The mean reward of the `neighbours` nearest training questions by cosine, all counting alike.

    Missing cells: neighbours are sought among the questions the assignment was measured on, and where those are
    fewer than `neighbours`, all of them count.
    """

    reachable: ClassVar[bool] = True

    def __init__(self, neighbours: int) -> None:
        self._regressor = MaskedRegressor(
            lambda rows: KNeighborsRegressor(min(neighbours, rows), metric="cosine", algorithm="brute")
        )

    def fit(self, train: Labelled, seed: int) -> None:
        self._regressor.fit(train.features, train.rewards)

    def scores(self, questions: Unlabelled) -> Floats:
        return self._regressor.predict(questions.features)
