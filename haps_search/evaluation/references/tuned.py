"""A reference's settings, chosen on folds inside the training questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.references import ReferenceConfig, ReferencesConfig
from haps_search.evaluation.references import REFERENCES
from haps_search.evaluation.references.labelled import Labelled, Reference
from haps_search.evaluation.routing_metrics.routes import Floats, earned, filled, prices, routes


@dataclass(frozen=True)
class Tuned:
    """A reference fitted to all training questions under the settings that did best on the folds.

    `tried` has every setting of the grid with its mean reward, less cost where cost has a weight, over the training
    questions, each routed by a reference fitted without its fold; `validation` is the chosen one's.
    """

    reference: Reference
    settings: Mapping[str, Any]
    validation: float
    tried: tuple[tuple[Mapping[str, Any], float], ...]


def tune(
    config: ReferenceConfig, train: Labelled, folds: NDArray[np.integer[Any]], seed: int, cost_weight: float = 0.0
) -> Tuned:
    """Try the grid on the folds, keep the best setting (the first of equals), and fit it to all of `train`.

    `folds` (N,) names each question's fold (`tasks.tables.splits.folds`). Only training questions come in, so no
    other question can take part in the choice.

    Raises:
        ConfigError: the questions lack what the reference needs.
        ValueError: fewer than two folds, or a weight of cost without costs.
    """
    if len(folds) != len(train) or len(np.unique(folds)) < 2:
        raise ValueError(f"folds: got {len(np.unique(folds))} over {len(folds)} questions, needs 2 over {len(train)}")
    points = config.points()
    values = [_out_of_fold(config.type, point, train, folds, seed, cost_weight) for point in points]
    best = int(np.argmax(values))
    reference = _fitted(config.type, points[best], train, seed)
    return Tuned(reference, points[best], values[best], tuple(zip(points, values, strict=True)))


def route(
    reference: Reference, train: Labelled, questions: Labelled, cost_weight: float = 0.0
) -> tuple[Floats, Floats]:
    """A fitted reference's scores and routes (N, C) on questions whose labels it may not see, where it is reachable.

    Prices come from `train`, since costs are paid after the choice. Raises ValueError where cost has a weight and
    nobody knows the costs.
    """
    if cost_weight and train.costs is None:
        raise ValueError(f"cost_weight: got {cost_weight} without costs, needs costs or a weight of 0")
    given = questions.unlabelled() if reference.reachable else questions
    scores = reference.scores(given)
    known = None if train.costs is None else prices(train.costs)
    return scores, routes(scores, questions.rewards, known, cost_weight)


def _fitted(kind: str, point: Mapping[str, Any], train: Labelled, seed: int) -> Reference:
    reference = REFERENCES[kind](**point)
    reference.fit(train, seed)
    return reference


def _out_of_fold(
    kind: str, point: Mapping[str, Any], train: Labelled, folds: NDArray[np.integer[Any]], seed: int, cost_weight: float
) -> float:
    """Mean reward less weighted cost over all of `train`, each fold routed by what the other folds taught."""
    values = np.empty(len(train))
    for fold in np.unique(folds):
        held = folds == fold
        rest, part = train.take(~held), train.take(held)
        _, shares = route(_fitted(kind, point, rest, seed), rest, part, cost_weight)
        values[held] = earned(shares, part.rewards)
        if cost_weight and rest.costs is not None and part.costs is not None:
            known = prices(rest.costs)
            values[held] -= cost_weight * earned(shares, filled(part.costs, known))
    return float(values.mean())


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
