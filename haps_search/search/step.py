"""One step of the search. Read this first: everything else serves this page.

route    the router draws, per question, G assignments and the adapters of the candidates they use
play     the candidates speak under their adapters, and return texts with gradients of log-likelihood
reward   the task says what each episode earned
advantage   rewards, less what the tokens cost, become advantages; advantages weight the gradients
update   the router carries the gradients on into its own weights
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from haps_search.config.run import Experiment
from haps_search.episodes.play import Play, play
from haps_search.learning.advantage import RunningMeans, judged
from haps_search.learning.objective import rollouts
from haps_search.learning.utility import mean_cost, prices, utilities
from haps_search.search.engine import Engine
from haps_search.search.metrics import step_metrics
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Task, earned
from haps_search.types import Episode, Question, Routes


@dataclass(frozen=True, slots=True)
class Routed:
    """The Q questions of step `index` and who answers them."""

    index: int
    questions: Sequence[Question]
    routes: Routes
    began: float


@dataclass(frozen=True, slots=True)
class Played:
    """What was said, Q rows of G episodes, and how long routing and playing took."""

    routed: Routed
    episodes: Sequence[Sequence[Episode]]
    seconds: float


async def step(
    engine: Engine,
    task: Task,
    questions: Sequence[Question],
    experiment: Experiment,
    index: int,
    means: RunningMeans | None = None,
) -> dict[str, float]:
    """Step `index` of a run on Q questions; returns its metrics. All randomness follows from seed and index.

    `means` are what candidates earned in the steps before, None where there were none; the step adds its own.
    """
    routed = await route(engine, questions, experiment, index)
    said = await played(engine, task, routed, experiment)
    return await learn(engine, task, said, experiment, means or RunningMeans())


async def route(engine: Engine, questions: Sequence[Question], experiment: Experiment, index: int) -> Routed:
    began = time.perf_counter()
    return Routed(index, questions, await _routes(engine, questions, experiment, _seed(experiment, index)), began)


async def played(engine: Engine, task: Task, routed: Routed, experiment: Experiment) -> Played:
    seed = _seed(experiment, routed.index)
    how = Play(experiment.run.sampling, seed, gradient=True, kl=experiment.learning.kl_weight > 0)
    routes = routed.routes
    episodes = await play(engine.speak, task, routed.questions, routes.assignments, routes.adapters, how)
    return Played(routed, episodes, time.perf_counter() - routed.began)


async def learn(
    engine: Engine, task: Task, said: Played, experiment: Experiment, means: RunningMeans
) -> dict[str, float]:
    began = time.perf_counter()
    episodes, routes = said.episodes, said.routed.routes
    rewards = [[earned(task, episode, learning=True) for episode in row] for row in episodes]
    price = prices(experiment.candidates)
    paid = utilities(rewards, episodes, price, experiment.learning.cost_weight)
    advantages = judged(experiment.learning.advantage, routes.assignments, rewards, paid, means)
    signal = rollouts(routes, episodes, advantages, experiment.learning)
    report = await engine.update(said.routed.questions, signal)
    means.add(routes.assignments, paid)

    measured = step_metrics(routes, episodes, rewards, experiment)
    return {
        **measured,
        **report.metrics,
        "cost": mean_cost([episode for row in episodes for episode in row], price),
        "rollout_seconds": said.seconds,
        "step_seconds": said.seconds + time.perf_counter() - began,
        "tokens_per_second": measured["completion_tokens"] / said.seconds,
    }


def _seed(experiment: Experiment, index: int) -> int:
    return derive_seed(experiment.run.seed, "step", index)


async def _routes(engine: Engine, questions: Sequence[Question], experiment: Experiment, seed: int) -> Routes:
    """G drawn assignments per question; or G times the likeliest, which explores nothing (the released code's way)."""
    count = experiment.run.episodes_per_question
    if experiment.learning.route == "sampled":
        return await engine.route(questions, count, seed)
    routes = await engine.route(questions, 0, seed)
    return replace(
        routes,
        assignments=tuple(row * count for row in routes.assignments),
        log_probabilities=tuple(row * count for row in routes.log_probabilities),
    )
