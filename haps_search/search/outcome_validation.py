"""The router on held-out questions whose outcomes are all known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haps_search.config.run import Experiment
from haps_search.learning.known import measured_weights, said, worth
from haps_search.search.engine import Engine
from haps_search.search.outcome_step import expected
from haps_search.search.validation import CHUNK, Scored, score_choices, validation_metrics
from haps_search.tasks.task import Tabled, Task
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
    them; the other metrics stand at `learning.cost_weight`, at least the lowest weight that was trained.
    """
    assert isinstance(task, Tabled)
    names = [c.name for c in experiment.candidates]
    known = task.outcomes(questions, names)
    likely = await chances(engine, questions)
    chosen = likeliest(likely, known.rewards)
    scored = await score_choices(engine, task, questions, [(names[k],) for k in chosen], experiment.run.sampling)

    utilities = []
    for weight in _weights(experiment):
        picked = chosen
        if experiment.learning.cost_conditioned is not None:
            asked = [said(question, weight) for question in questions]
            picked = likeliest(await chances(engine, asked), known.rewards)
        value = worth(known, np.full(len(questions), weight))
        utilities.append(np.nanmean(value[np.arange(len(value)), picked]))
    return scored, {
        **validation_metrics(scored, names),
        "validation_expected_reward": float(expected(likely, known.rewards).mean()),
        "validation_utility": float(np.mean(utilities)),
    }


def likeliest(likely: Floats, rewards: Floats) -> NDArray[np.intp]:
    """(N,): the likeliest column whose cell is known."""
    return np.where(np.isnan(rewards), -1.0, likely).argmax(axis=1)


def _weights(experiment: Experiment) -> list[float]:
    limits = experiment.learning.cost_conditioned
    return [experiment.learning.cost_weight] if limits is None else measured_weights(limits)
