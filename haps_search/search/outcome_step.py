"""One step of a search whose outcomes are all known: nothing is played, and the expectation is exact.

route    the router says how likely it would choose each candidate
reward   the table says what each would have earned, and what it would have cost
update   the router learns from whole rows (learning.outcome_loss)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.evaluation.routing_metrics.curve import aiq, aiq0, router_curve
from haps_search.learning.utility import measured_weights, utility, weighted, with_cost_weight
from haps_search.search.engine import Engine
from haps_search.search.metrics import entropy, route_collapse
from haps_search.search.validation import CHUNK, Scored, score_choices, validation_metrics
from haps_search.seeds import derive_seed
from haps_search.tasks.task import KnownOutcomes, Tabled, Task
from haps_search.types import Outcomes, Question, Routes

Floats = NDArray[np.floating[Any]]


async def outcome_step(
    engine: Engine, task: Tabled, questions: Sequence[Question], experiment: Experiment, index: int
) -> dict[str, float]:
    """Step `index` of a run on Q questions; returns its metrics. All randomness follows from seed and index."""
    began = time.perf_counter()
    names = [c.name for c in experiment.candidates]
    asked, weights = weighted(questions, experiment.learning, derive_seed(experiment.run.seed, "step", index))

    routes = await engine.route(asked, 0, 0)
    known = task.outcomes(questions, names)
    paid = utility(known, weights, experiment.learning.task_smoothing)
    report = await engine.update(asked, Outcomes(routes.version, tuple(map(tuple, paid.tolist()))))

    return {
        **outcome_metrics(routes, known.rewards, experiment),
        **report.metrics,
        "step_seconds": time.perf_counter() - began,
    }


def outcome_metrics(routes: Routes, rewards: Floats, experiment: Experiment) -> dict[str, float]:
    """Expected reward over the known cells of (Q, K), route shares and entropy (nats), missing cells, alarm."""
    names = [c.name for c in experiment.candidates]
    chances = np.array([row[0] for row in routes.marginals])
    shares = chances.mean(axis=0)
    measured = {
        "reward": float(expected(chances, rewards).mean()),
        "route_entropy": float(np.mean([entropy(row) for row in chances])),
        "missing_cells": float(np.isnan(rewards).sum()),
        **{f"share/{name}": float(share) for name, share in zip(names, shares, strict=True)},
    }
    top = float(np.bincount(chances.argmax(axis=1)).max() / len(chances))
    alarm = route_collapse(measured["route_entropy"], top, experiment.run.collapse, len(names))
    return measured | {"route_collapse": float(alarm)}


def expected(chances: Floats, rewards: Floats) -> Floats:
    """(Q,): the mean reward under (Q, K) probabilities, renormalised over known cells."""
    known = ~np.isnan(rewards)
    among = np.where(known, chances, 0.0)
    total = among.sum(axis=1)
    # All mass on missing cells says nothing of the known ones: each counts alike then.
    among = np.where(total[:, None] > 0, among, known)
    return np.asarray((among * np.where(known, rewards, 0.0)).sum(axis=1) / among.sum(axis=1))


async def chances(engine: Engine, questions: Sequence[Question]) -> Floats:
    """(N, K): how likely the router would choose each candidate, in the order of the experiment."""
    parts = [await engine.route(questions[at : at + CHUNK], 0, 0) for at in range(0, len(questions), CHUNK)]
    return np.array([row[0] for routes in parts for row in routes.marginals])


async def score_known(
    engine: Engine, task: Task, questions: Sequence[Question], experiment: Experiment
) -> tuple[Scored, dict[str, float]]:
    """The likeliest candidate per question among those with a known cell, and its metrics.

    `validation_utility` is its reward less what cost weighs, the mean over several weights for a router that reads
    them; `validation_aiq` and `validation_aiq0`, where costs are known, are RouterBench's between the cheapest and the
    dearest candidate, the second with (0, 0) in the hull. The other metrics stand at `learning.cost_weight`, at least
    the lowest weight that was trained.

    Raises:
        ConfigError: cost weighs or `run.validation.best` is aiq or aiq0, and the table has no costs.
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
        **_aiq(known, likely, priced, experiment.run.validation.best),
    }


def _utility(known: KnownOutcomes, weight: float, likely: Floats) -> float:
    value = utility(known, np.full(len(likely), weight))
    return float(np.nanmean(value[np.arange(len(value)), likeliest(likely, known.rewards)]))


def _aiq(known: KnownOutcomes, likely: Floats, priced: Mapping[float, Floats], best: str) -> dict[str, float]:
    if known.costs is None or known.prices is None:
        if best != "utility":
            raise ConfigError(f"run.validation.best: got {best}, but the table has no costs: use utility")
        return {}
    means = known.costs.mean(axis=0, dtype=np.float64)
    curve = router_curve(likely, priced, known.prices, known.rewards, known.costs)
    within = float(means.min()), float(means.max())
    return {"validation_aiq": aiq(curve.points(), within), "validation_aiq0": aiq0(curve.points(), within)}


def likeliest(likely: Floats, rewards: Floats) -> NDArray[np.intp]:
    """(N,): the likeliest column whose cell is known."""
    return np.where(np.isnan(rewards), -1.0, likely).argmax(axis=1)
