"""The best there is for each question, known afterwards."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from haps_search.evaluation.references.labelled import Labelled, Unlabelled
from haps_search.evaluation.routing_metrics.routes import Floats


class PerQueryOracle:
    """The rewards themselves; a missing cell counts as the worst of all.

    Each cell is one run, so part of what the oracle gains is luck that no router can see.
    """

    reachable: ClassVar[bool] = False

    def fit(self, train: Labelled, seed: int) -> None:
        """Nothing to learn."""

    def scores(self, questions: Unlabelled) -> Floats:
        if not isinstance(questions, Labelled):
            raise ValueError("the per-query oracle reads rewards: give it labelled questions")
        return np.where(np.isnan(questions.rewards), np.nanmin(questions.rewards), questions.rewards)
