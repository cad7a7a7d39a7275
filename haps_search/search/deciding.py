"""What a router chooses on questions that nobody has answered yet, whatever cost weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from haps_search.config.learning import LearningConfig, SoftTargets, SquaredError
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.learning.utility import with_cost_weight
from haps_search.search.engine import Engine
from haps_search.search.validation import CHUNK
from haps_search.tasks.task import Tabled, Task
from haps_search.types import Assignment, Question


@dataclass(frozen=True, slots=True)
class Decision:
    """The assignment of a question, and for each role the probability of every candidate."""

    assignment: Assignment
    probabilities: tuple[Mapping[str, float], ...]


async def decide(
    engine: Engine, task: Task, questions: Sequence[Question], experiment: Experiment, cost_weight: float | None = None
) -> list[Decision]:
    """The likeliest assignment of each question; with `cost_weight`, in the unit of `learning.cost_weight`, the one
    worth most when cost weighs so much.

    Raises:
        ConfigError: as `require_tellable`.
    """
    if cost_weight is not None:
        require_tellable(task, experiment, cost_weight)
    questions, names = told(questions, experiment, cost_weight), [c.name for c in experiment.candidates]
    found: list[Decision] = []
    for start in range(0, len(questions), CHUNK):
        routes = await engine.route(questions[start : start + CHUNK], 0, 0)
        found += [
            Decision(row[0], tuple(dict(zip(names, shares, strict=True)) for shares in marginals))
            for row, marginals in zip(routes.assignments, routes.marginals, strict=True)
        ]
    return [priced(each, task, experiment, cost_weight) for each in found]


def told(questions: Sequence[Question], experiment: Experiment, cost_weight: float | None) -> Sequence[Question]:
    """The questions as a router reads them that is told what cost weighs."""
    if cost_weight is None or experiment.learning.cost_conditioned is None:
        return questions
    return [with_cost_weight(question, cost_weight) for question in questions]


def priced(decision: Decision, task: Task, experiment: Experiment, cost_weight: float | None) -> Decision:
    """The decision of a router that is not told what cost weighs, when it weighs so much.

    `temperature * log p` has to be a predicted reward less `learning.cost_weight` times its cost (losses squared_error
    and soft_targets); what the given weight adds to that is set against the models' prices, their mean costs.
    """
    learning, names = experiment.learning, [c.name for c in experiment.candidates]
    if cost_weight is None or learning.cost_conditioned is not None:
        return decision
    handicaps = (cost_weight - learning.cost_weight) * _prices(task, names) / _reward_of_log_p(experiment)
    return replace(decision, assignment=(_highest_utility(decision.probabilities[0], names, handicaps),))


def require_tellable(task: Task, experiment: Experiment, cost_weight: float) -> None:
    """Raises ConfigError: a weight where nobody knows costs, beyond what the router was trained on, or against
    preferences that are no rewards."""
    if experiment.learning.cost_conditioned is not None:
        _within(experiment.learning, cost_weight)
    else:
        _prices(task, [c.name for c in experiment.candidates])
        _reward_of_log_p(experiment)


def _highest_utility(chances: Mapping[str, float], names: Sequence[str], handicaps: np.ndarray) -> str:
    """The candidate whose log p less its handicap is largest."""
    with np.errstate(divide="ignore"):
        return names[int((np.log([chances[name] for name in names]) - handicaps).argmax())]


def _prices(task: Task, names: Sequence[str]) -> np.ndarray:
    prices = task.prices(names) if isinstance(task, Tabled) else None
    if prices is None:
        raise ConfigError("--cost-weight: needs a router of a replay whose table has costs")
    return prices


def _reward_of_log_p(experiment: Experiment) -> float:
    """The reward that a difference of 1 in log p stands for."""
    signal, loss = experiment.learning.signal, experiment.learning.outcome_loss
    learnt = signal == "outcomes" and experiment.routing.high_level.type in ("head", "lm")
    if learnt and (isinstance(loss, SquaredError) or (isinstance(loss, SoftTargets) and loss.temperature > 0)):
        return loss.temperature
    by = loss.type if learnt else f"{signal}, high level {experiment.routing.high_level.type}"
    raise ConfigError(
        f"--cost-weight: this router learnt by {by}, and its preferences are no rewards that a price could be set "
        "against: train one with learning.outcome_loss.type squared_error or soft_targets, or with "
        "learning.cost_conditioned"
    )


def _within(learning: LearningConfig, weight: float) -> None:
    """A weight that the router was trained on, or less."""
    limits = learning.cost_conditioned
    assert limits is not None
    if weight > limits.high:
        raise ConfigError(f"--cost-weight: got {weight:g}, this router knows {limits.low} to {limits.high}")
