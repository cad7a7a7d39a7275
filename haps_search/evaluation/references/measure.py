"""All references of a comparison on one split: tuned inside the training part, measured on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.references import ReferencesConfig
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.tune import route, tune
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.evaluation.routing_metrics.routes import earned


@dataclass(frozen=True)
class Measured:
    """A reference on N questions: its `scores` and `routes` (N, C), and what these earn per question, `rewards` (N,).

    `validation` is its mean out-of-fold value inside the training questions: whoever picks the best reference picks
    by it, and not by `rewards`.
    """

    type: str
    settings: Mapping[str, Any]
    reachable: bool
    validation: float
    scores: Floats
    routes: Floats
    rewards: NDArray[np.float64]


def measure(
    config: ReferencesConfig,
    train: Labelled,
    test: Labelled,
    folds: NDArray[np.integer[Any]],
    seed: int,
    cost_weight: float = 0.0,
) -> tuple[Measured, ...]:
    """Every reference of the comparison, tuned on `folds` (N,) of `train`, on the questions of `test`.

    Raises:
        ConfigError: the questions lack what a reference needs.
    """
    found = []
    for reference in config.chosen(with_costs=train.costs is not None):
        tuned = tune(reference, train, folds, seed, cost_weight)
        scores, shares = route(tuned.reference, train, test, cost_weight)
        reachable, rewards = tuned.reference.reachable, earned(shares, test.rewards)
        found.append(Measured(reference.type, tuned.settings, reachable, tuned.validation, scores, shares, rewards))
    return tuple(found)
