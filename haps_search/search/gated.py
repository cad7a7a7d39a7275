"""Where a router is not sure enough, somebody named answers instead; and what that earns and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.config.candidates import Price
from haps_search.config.run import SamplingConfig
from haps_search.errors import ConfigError
from haps_search.learning.utility import cost
from haps_search.search.engine import Engine
from haps_search.search.validation import CHUNK, Scored, greedy_episodes, scored_episodes
from haps_search.tasks.task import Task
from haps_search.types import Assignment, Episode, Question


@dataclass(frozen=True, slots=True)
class Gate:
    """Where the chosen assignment has a probability below `min_confidence`, `fallback` plays every role."""

    min_confidence: float
    fallback: str

    def opens(self, assignment: Assignment, confidence: float) -> bool:
        """Whether the fallback takes over; where it was chosen anyway there is nothing to take over."""
        return confidence < self.min_confidence and assignment != self.instead(assignment)

    def instead(self, assignment: Assignment) -> Assignment:
        return (self.fallback,) * len(assignment)


def gate_of(min_confidence: float | None, fallback: str | None) -> Gate | None:
    """Raises ConfigError where one is given without the other."""
    if min_confidence is None and fallback is None:
        return None
    if min_confidence is None or fallback is None:
        lacks, given = ("--fallback", "--min-confidence") if fallback is None else ("--min-confidence", "--fallback")
        raise ConfigError(f"{given}: needs {lacks} too: below that confidence the fallback answers")
    return Gate(min_confidence, fallback)


@dataclass(frozen=True)
class Gated:
    """A run under a gate: one greedy episode per question, and whose the fallback played."""

    scored: Scored
    escalated: tuple[bool, ...]

    @property
    def share(self) -> float:
        """Of the questions that were escalated."""
        return fmean(self.escalated)


async def score_gated(
    engine: Engine, task: Task, questions: Sequence[Question], sampling: SamplingConfig, gate: Gate
) -> Gated:
    """As `score_router`, with the gate between decision and play; who answers has his adapter, whoever he is."""
    episodes: list[Episode] = []
    escalated: list[bool] = []
    for start in range(0, len(questions), CHUNK):
        part = questions[start : start + CHUNK]
        routes = await engine.route(part, 0, 0, everyone=True)
        sure = [
            (z, math.exp(log_p)) for (z,), (log_p,) in zip(routes.assignments, routes.log_probabilities, strict=True)
        ]
        opened = [gate.opens(z, p) for z, p in sure]
        chosen = [gate.instead(z) if opens else z for (z, _), opens in zip(sure, opened, strict=True)]
        episodes += await greedy_episodes(engine, task, part, chosen, routes.adapters, sampling)
        escalated += opened
    return Gated(scored_episodes(task, episodes, 0.0), tuple(escalated))


def costs(scored: Scored, price: Mapping[str, Price]) -> tuple[float, ...]:
    """Of each episode, in the unit of the prices."""
    return tuple(cost(episode, price) for episode in scored.episodes)
