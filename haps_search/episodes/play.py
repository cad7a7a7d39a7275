"""Play many episodes together: at each turn all open requests for a candidate go out as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from haps_search.config.run import SamplingConfig
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Task
from haps_search.types import (
    Adapter,
    Assignment,
    Completion,
    Episode,
    Question,
    Request,
    Response,
    Sampling,
    Turn,
)

Speak = Callable[[str, Sequence[Request]], Awaitable[list[Response]]]
"""Candidate name and a batch of requests -> responses in order."""


@dataclass(frozen=True, slots=True)
class Play:
    """How a set of episodes is played: sampled for learning, or greedy for measuring."""

    sampling: SamplingConfig
    seed: int
    greedy: bool = False
    gradient: bool = False
    kl: bool = False

    def request(self, episode: Episode, index: int, turn: Turn, adapter: Adapter | None) -> Request:
        # The seed names question, episode and turn, so a text never depends on what else is in flight.
        seed = derive_seed(self.seed, episode.question.id, index, len(episode.completions))
        sampling = Sampling(
            self.sampling.max_new_tokens,
            0.0 if self.greedy else self.sampling.temperature,
            seed,
            self.sampling.top_k,
            self.sampling.top_p,
        )
        learns = adapter is not None
        return Request(turn.messages, sampling, adapter, self.gradient and learns, self.kl and learns)


async def play(
    speak: Speak,
    task: Task,
    questions: Sequence[Question],
    assignments: Sequence[Sequence[Assignment]],
    adapters: Mapping[tuple[int, str], Adapter],
    how: Play,
) -> list[list[Episode]]:
    """Q lists of G finished episodes, `assignments[q][g]` deciding who plays which role in each."""
    episodes = [[Episode(q, z) for z in row] for q, row in zip(questions, assignments, strict=True)]
    seats = {role.name: seat for seat, role in enumerate(task.roles)}
    while True:
        waiting: dict[str, list[tuple[int, int, Turn]]] = {}
        for q, row in enumerate(episodes):
            for g, episode in enumerate(row):
                turn = task.turn(episode)
                if turn is not None:
                    waiting.setdefault(episode.assignment[seats[turn.role]], []).append((q, g, turn))
        if not waiting:
            return episodes
        await asyncio.gather(
            *(_round(speak, task, episodes, adapters, how, name, turns) for name, turns in waiting.items())
        )


async def _round(
    speak: Speak,
    task: Task,
    episodes: list[list[Episode]],
    adapters: Mapping[tuple[int, str], Adapter],
    how: Play,
    name: str,
    turns: Sequence[tuple[int, int, Turn]],
) -> None:
    requests = [how.request(episodes[q][g], g, turn, adapters.get((q, name))) for q, g, turn in turns]
    responses = await speak(name, requests)
    for (q, g, turn), response in zip(turns, responses, strict=True):
        question = episodes[q][g].question
        said = Completion(turn.role, name, response, task.parse(question, turn.role, response.text))
        episode = episodes[q][g]
        episodes[q][g] = replace(episode, completions=(*episode.completions, said))
