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
    Parsed,
    Question,
    Sampled,
    SampleRequest,
    Sampling,
    Turn,
)

Sample = Callable[[str, Sequence[SampleRequest]], Awaitable[list[Sampled]]]
"""Candidate name and a batch of requests -> what was drawn, in order."""


@dataclass(frozen=True, slots=True)
class Play:
    """How a set of episodes is played: sampled for learning, or greedy for measuring. `keep`: what is drawn under an
    adapter will be scored."""

    sampling: SamplingConfig
    seed: int
    greedy: bool = False
    keep: bool = False

    def request(self, episode: Episode, index: int, turn: Turn, adapter: Adapter | None) -> SampleRequest:
        # The seed names question, episode and turn, so a completion never depends on what else is in flight.
        seed = derive_seed(self.seed, episode.question.id, index, len(episode.completions))
        sampling = Sampling(
            self.sampling.max_new_tokens,
            0.0 if self.greedy else self.sampling.temperature,
            seed,
            self.sampling.top_k,
            self.sampling.top_p,
            self.sampling.min_p,
        )
        return SampleRequest(turn.messages, sampling, adapter, keep=self.keep and adapter is not None)


async def play(
    sample: Sample,
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
            *(_round(sample, task, episodes, adapters, how, name, turns) for name, turns in waiting.items())
        )


async def _round(
    sample: Sample,
    task: Task,
    episodes: list[list[Episode]],
    adapters: Mapping[tuple[int, str], Adapter],
    how: Play,
    name: str,
    turns: Sequence[tuple[int, int, Turn]],
) -> None:
    requests = [how.request(episodes[q][g], g, turn, adapters.get((q, name))) for q, g, turn in turns]
    for (q, g, turn), drawn in zip(turns, await sample(name, requests), strict=True):
        episode = episodes[q][g]
        refused = drawn.refusal is not None
        parsed = Parsed(None, drawn.refusal) if refused else task.parse(episode.question, turn.role, drawn.text)
        completion = Completion(turn.role, name, turn.messages, drawn, parsed)
        episodes[q][g] = replace(episode, completions=(*episode.completions, completion))
