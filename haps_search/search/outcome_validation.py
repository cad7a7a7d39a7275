"""The router on held-out questions whose outcomes are all known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.evaluation.routing_metrics.aiq import aiq
from haps_search.evaluation.routing_metrics.router_curve import router_curve
from haps_search.learning.known import measured_weights, utility, with_cost_weight
from haps_search.search.engine import Engine
from haps_search.search.outcome_step import expected
from haps_search.search.validation import CHUNK, Scored, score_choices, validation_metrics
from haps_search.tasks.task import KnownOutcomes, Tabled, Task
from haps_search.types import Question

Floats = NDArray[np.floating[Any]]


async def chances(engine: Engine, questions: Sequence[Question]) -> Floats:
    """(N, K): how likely the router would choose each candidate, in the order of the experiment."""
    parts = [await engine.route(questions[at : at + CHUNK], 0, 0) for at in range(0, len(questions), CHUNK)]
    return np.array([row[0] for routes in parts for row in routes.marginals])


async def score_known(
    engine: Engine, task: Task, questions: Sequence[Question], experiment: Experiment
) -> tuple[Scored, dict[str, float]]:
    """The likeliest candidate per question among those with a known cell, and its metrics.

    `validation_utility` is its reward less what cost weighs, the mean over several weights for a router that reads
    them; `validation_aiq`, where costs are known, is RouterBench's between the cheapest and the dearest candidate. The
    other metrics stand at `learning.cost_weight`, at least the lowest weight that was trained.

    Raises:
        ConfigError: cost weighs or `run.validation.best` is aiq, and the table has no costs.
    """
    assert isinstance(task, Tabled)
    names = [c.name for c in experiment.candidates]
    known = task.outcomes(questions, names)
    likely = await chances(engine, questions)
    chosen = likeliest(likely, known.rewards)
    scored = await score_choices(engine, task, questions, [(names[k],) for k in chosen], experiment.run.sampling)

    limits = experiment.learning.cost_conditioned
    weights = [] if limits is None else measured_weights(limits)
    priced = {w: await chances(engine, [with_cost_weight(question, w) for question in questions]) for w in weights}
    by_weight = priced or {experiment.learning.cost_weight: likely}
    return scored, {
        **validation_metrics(scored, names),
        "validation_expected_reward": float(expected(likely, known.rewards).mean()),
        "validation_utility": float(np.mean([_utility(known, w, found) for w, found in by_weight.items()])),
        **_aiq(known, likely, priced, experiment.run.validation.best == "aiq"),
    }


def _utility(known: KnownOutcomes, weight: float, likely: Floats) -> float:
    value = utility(known, np.full(len(likely), weight))
    return float(np.nanmean(value[np.arange(len(value)), likeliest(likely, known.rewards)]))


def _aiq(known: KnownOutcomes, likely: Floats, priced: Mapping[float, Floats], wanted: bool) -> dict[str, float]:
    if known.costs is None or known.prices is None:
        if wanted:
            raise ConfigError("run.validation.best: got aiq, but the table has no costs: use utility")
        return {}
    means = known.costs.mean(axis=0, dtype=np.float64)
    curve = router_curve(likely, priced, known.prices, known.rewards, known.costs)
    return {"validation_aiq": aiq(curve.points(), (float(means.min()), float(means.max())))}


def likeliest(likely: Floats, rewards: Floats) -> NDArray[np.intp]:
    """(N,): the likeliest column whose cell is known."""
    return np.where(np.isnan(rewards), -1.0, likely).argmax(axis=1)
