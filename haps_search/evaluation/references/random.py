"""Any assignment."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from haps_search.evaluation.references.labelled import Labelled, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats


class Random:
    """All assignments alike: ties share a question, so what is measured is the expectation and not one draw."""

    reachable: ClassVar[bool] = True

    def fit(self, train: Labelled, seed: int) -> None:
        self._assignments = train.rewards.shape[1]
        self._mean = float(np.nanmean(train.rewards))

    def scores(self, questions: Unlabelled) -> Floats:
        return np.full((len(questions), self._assignments), self._mean)
