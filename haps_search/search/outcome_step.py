"""One step of a search whose outcomes are all known: nothing is played, and the expectation is exact.

route    the router says how likely it would choose each candidate
reward   the table says what each would have earned, and what it would have cost
update   the router learns from whole rows (learning.outcome_loss)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.run import Experiment
from haps_search.learning.known import utility, weighted
from haps_search.search.engine import Engine
from haps_search.search.metrics import entropy, route_collapse
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Tabled
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
