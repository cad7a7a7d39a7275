"""A small neural network."""

from __future__ import annotations

import warnings
from typing import ClassVar

from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from haps_search.evaluation.references.labelled import Labelled, MaskedRegressor, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats


class Mlp:
    """One hidden layer of ReLUs, squared error, Adam for `epochs` passes; `alpha` weights the squared weights.

    Missing cells: each set of assignments measured on the same questions gets a network of its own.
    """

    reachable: ClassVar[bool] = True

    def __init__(self, hidden: int, alpha: float, epochs: int) -> None:
        self._settings = {"hidden_layer_sizes": (hidden,), "alpha": alpha, "max_iter": epochs}

    def fit(self, train: Labelled, seed: int) -> None:
        self._regressor = MaskedRegressor(lambda rows: MLPRegressor(**self._settings, random_state=seed % 2**32))
        with warnings.catch_warnings():
            # The number of epochs is a setting that is tuned, so ending there is not a failure.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._regressor.fit(train.features, train.rewards)

    def scores(self, questions: Unlabelled) -> Floats:
        return self._regressor.predict(questions.features)
