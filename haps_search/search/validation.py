"""Greedy play on questions that training never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.config.run import SamplingConfig
from haps_search.episodes.play import Play, play
from haps_search.search.engine import Engine
from haps_search.search.metrics import contexts_cut, failure_shares, route_shares
from haps_search.tasks.task import Task, earned
from haps_search.types import Adapter, Assignment, Episode, Question

CHUNK = 256
"""Questions in flight at once, so that a split of any size fits."""


@dataclass(frozen=True)
class Scored:
    """One greedy episode per question, what each earned, and the task's other figures of each."""

    episodes: tuple[Episode, ...]
    rewards: tuple[float, ...]
    adapter_norm: float = 0.0
    measures: tuple[Mapping[str, float], ...] = ()

    @property
    def mean(self) -> float:
        return fmean(self.rewards)

    @property
    def completion_tokens(self) -> float:
        """Mean per question."""
        return fmean(sum(u.sampled.completion_tokens for u in e.completions) for e in self.episodes)

    @property
    def mean_measures(self) -> dict[str, float]:
        """Each figure's mean over the questions that have it."""
        names = dict.fromkeys(name for measured in self.measures for name in measured)
        return {name: fmean(each[name] for each in self.measures if name in each) for name in names}


async def score_router(engine: Engine, task: Task, questions: Sequence[Question], sampling: SamplingConfig) -> Scored:
    """The router's likeliest assignment with its adapters, greedy texts."""
    episodes: list[Episode] = []
    norms: list[float] = []
    sizes: list[int] = []
    for start in range(0, len(questions), CHUNK):
        part = questions[start : start + CHUNK]
        routes = await engine.route(part, 0, 0)
        episodes += await greedy_episodes(
            engine, task, part, [row[0] for row in routes.assignments], routes.adapters, sampling
        )
        norms.append(routes.adapter_norm)
        sizes.append(len(routes.adapters))
    norm = fmean(norms, weights=sizes) if any(sizes) else 0.0
    return scored_episodes(task, episodes, norm)


async def score_assignment(
    engine: Engine,
    task: Task,
    questions: Sequence[Question],
    assignment: Assignment,
    sampling: SamplingConfig,
) -> Scored:
    """One assignment for every question, frozen candidates, greedy texts."""
    return await score_choices(engine, task, questions, [assignment] * len(questions), sampling)


async def score_choices(
    engine: Engine, task: Task, questions: Sequence[Question], chosen: Sequence[Assignment], sampling: SamplingConfig
) -> Scored:
    """A given assignment per question, frozen candidates, greedy texts."""
    episodes: list[Episode] = []
    for start in range(0, len(questions), CHUNK):
        part = slice(start, start + CHUNK)
        episodes += await greedy_episodes(engine, task, questions[part], chosen[part], {}, sampling)
    return scored_episodes(task, episodes, 0.0)


async def greedy_episodes(
    engine: Engine,
    task: Task,
    questions: Sequence[Question],
    assignments: Sequence[Assignment],
    adapters: Mapping[tuple[int, str], Adapter],
    sampling: SamplingConfig,
) -> list[Episode]:
    """One greedy episode per question under a given assignment."""
    rows = await play(
        engine.sample, task, questions, [[z] for z in assignments], adapters, Play(sampling, seed=0, greedy=True)
    )
    return [row[0] for row in rows]


def scored_episodes(task: Task, episodes: Sequence[Episode], norm: float) -> Scored:
    """What finished episodes earned."""
    rewards, measures = tuple(earned(task, e) for e in episodes), tuple(task.measures(e) for e in episodes)
    return Scored(tuple(episodes), rewards, norm, measures)


def validation_metrics(scored: Scored, names: Sequence[str]) -> dict[str, float]:
    """Reward, tokens and shares, under the names that sweeps may optimise, and `validation_NAME` of each measure."""
    shares = route_shares([e.assignment for e in scored.episodes], names)
    return {
        **{f"validation_{name}": mean for name, mean in scored.mean_measures.items()},
        "validation_reward": scored.mean,
        "validation_tokens": scored.completion_tokens,
        "validation_adapter_norm": scored.adapter_norm,
        "validation_contexts_cut": contexts_cut(e.question for e in scored.episodes),
        **{f"validation_parse_failure_share/{seat}": share for seat, share in failure_shares(scored.episodes).items()},
        **{f"validation_share/{name}": share for name, share in shares.items()},
    }
