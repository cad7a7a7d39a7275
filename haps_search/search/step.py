"""One step of the search. Read this first: everything else serves this page.

route      the router draws, per question, G assignments and the adapters of the candidates they use
sample     the candidates play the episodes under their adapters, and return completions
reward     the task says what each episode earned
advantage  rewards, less what the tokens cost, become advantages; advantages become the completions' weights
score      the candidates return one gradient per question: the weighted sum over its completions
update     the router carries the gradients on into its own weights

Its siblings: `outcome_step` (replays, whose rows are known), `learning.from_tables` (warm-up). `loop` repeats it, and
`learning.update` is the optimiser's part.

With `run.staleness` 1 the next step's episodes are sampled while this step's are scored and learnt from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from haps_search.config.run import Experiment
from haps_search.episodes.play import Play, play
from haps_search.learning.advantage import RunningMeans, judged
from haps_search.learning.objective import Requests, rollouts, score_requests
from haps_search.learning.utility import mean_cost, prices, utilities
from haps_search.search.engine import Engine
from haps_search.search.metrics import step_metrics
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Task, earned
from haps_search.types import Distribution, Episode, Question, Routes, Scores


@dataclass(frozen=True, slots=True)
class Routed:
    """The Q questions of step `index` and who answers them."""

    index: int
    questions: Sequence[Question]
    routes: Routes
    began: float


@dataclass(frozen=True, slots=True)
class Played:
    """Q rows of G episodes, and how long routing and sampling took."""

    routed: Routed
    episodes: Sequence[Sequence[Episode]]
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """What a step was, and what was played ahead of the next one."""

    metrics: dict[str, float]
    ahead: Played | None = None


async def step(
    engine: Engine,
    task: Task,
    experiment: Experiment,
    index: int,
    questions: Sequence[Question],
    means: RunningMeans | None = None,
    ahead: Played | None = None,
    following: Sequence[Question] | None = None,
) -> Step:
    """Step `index` of a run on Q questions. All randomness follows from seed and index.

    `means` are what candidates earned in the steps before, None where there were none; the step adds its own.
    `ahead` is what the step before played of it. The `following` questions are routed by the router as it is before
    this step's update; None where the next step is to begin with the updated one: before whatever is saved, so that a
    resumed run is the run that was not interrupted.
    """
    began = time.perf_counter()
    means = RunningMeans() if means is None else means
    if ahead is None:
        ahead = await sample(engine, task, experiment, await route(engine, experiment, index, questions))
    if following is None:
        metrics, next_ahead = await learn(engine, task, experiment, ahead, means), None
    else:
        routed = await route(engine, experiment, index + 1, following)
        metrics, next_ahead = await asyncio.gather(
            learn(engine, task, experiment, ahead, means), sample(engine, task, experiment, routed)
        )
    # Steps overlap: one takes as long as it is waited for.
    return Step(metrics | {"step_seconds": time.perf_counter() - began}, next_ahead)


async def route(engine: Engine, experiment: Experiment, index: int, questions: Sequence[Question]) -> Routed:
    """G drawn assignments per question; or G times the likeliest, which explores nothing (the released code's way)."""
    began, count = time.perf_counter(), experiment.run.episodes_per_question
    drawn = experiment.learning.route == "sampled"
    routes = await engine.route(questions, count if drawn else 0, _seed(experiment, index))
    if not drawn:
        routes = replace(
            routes,
            assignments=tuple(row * count for row in routes.assignments),
            log_probabilities=tuple(row * count for row in routes.log_probabilities),
        )
    return Routed(index, questions, routes, began)


async def sample(engine: Engine, task: Task, experiment: Experiment, routed: Routed) -> Played:
    routes, how = routed.routes, Play(experiment.run.sampling, _seed(experiment, routed.index), keep=True)
    episodes = await play(engine.sample, task, routed.questions, routes.assignments, routes.adapters, how)
    return Played(routed, episodes, time.perf_counter() - routed.began)


async def learn(
    engine: Engine, task: Task, experiment: Experiment, played: Played, means: RunningMeans
) -> dict[str, float]:
    """Reward, advantage, score, update."""
    episodes, routes, learning = played.episodes, played.routed.routes, experiment.learning
    rewards = [[earned(task, episode, learning=True) for episode in row] for row in episodes]
    price = prices(experiment.candidates)
    paid = utilities(rewards, episodes, price, learning.cost_weight)

    weighed = judged(learning.advantage, routes.assignments, rewards, paid, means)
    sampling = experiment.run.sampling
    distribution = Distribution(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    requests = score_requests(routes, episodes, weighed, distribution, learning.kl_weight)
    scores = await score(engine, requests)
    report = await engine.update(played.routed.questions, rollouts(routes, weighed, requests, scores, learning))
    means.add(routes.assignments, paid)

    measured = step_metrics(routes, episodes, rewards, scores, experiment)
    return {
        **measured,
        **report.metrics,
        "cost": mean_cost([episode for row in episodes for episode in row], price),
        "rollout_seconds": played.seconds,
        "tokens_per_second": measured["completion_tokens"] / played.seconds,
    }


async def score(engine: Engine, requests: Requests) -> Mapping[str, Scores]:
    """Per candidate its scores, in the order of its questions."""
    names = list(requests)
    found = await asyncio.gather(*(engine.score(name, list(requests[name].values())) for name in names))
    return dict(zip(names, found, strict=True))


def _seed(experiment: Experiment, index: int) -> int:
    return derive_seed(experiment.run.seed, "step", index)
