"""Who decides and who answers, in the process that has them: a router and candidates behind lines that batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from haps_search.candidates.candidate import Candidate, Elsewhere, Watched
from haps_search.config.run import Experiment
from haps_search.search.deciding import Decision, priced, told
from haps_search.search.gated import Gate
from haps_search.serving.batching import Line, Ticket
from haps_search.serving.exchange import Asked, Decided, Routed
from haps_search.tasks.task import Tabled, Task
from haps_search.types import Adapter, Question, Sampled, SampleRequest

if TYPE_CHECKING:
    from haps_search.routing.router import Router

Hears = Callable[[str], None]
"""Told each new piece of a text, in order; together they are the text."""
QUESTIONS = 64
"""So many are read at once."""


class Decides(Protocol):
    """A router as the service asks it, wherever it is."""

    async def decide(self, asked: Asked) -> Routed: ...


class Answers(Protocol):
    """A candidate as the service asks it, wherever it is."""

    async def sample(self, request: SampleRequest, hears: Hears | None = None) -> Sampled:
        """One completion. Who is cancelled stops costing at the next token, where the candidate can be watched.

        Raises:
            CandidateError: the candidate cannot take the request. PoolError: its machine failed.
        """
        ...


class RouterHost:
    """Implements `Decides` with a run's router at hand."""

    def __init__(
        self, experiment: Experiment, task: Task, router: Router, gate: Gate | None, threads: Executor
    ) -> None:
        self._experiment, self._task, self._router, self._gate = experiment, task, router, gate
        self._names = [c.name for c in experiment.candidates]
        self._line: Line[Asked, Routed] = Line(self._work, QUESTIONS, threads)

    async def decide(self, asked: Asked) -> Routed:
        return await self._line.ask(asked)

    def _work(self, waiting: Sequence[Ticket[Asked, Routed]]) -> list[Routed]:
        import torch

        asked = [ticket.item for ticket in waiting]
        with torch.no_grad():
            reading = self._router.read([self._worded(each) for each in asked])
        chosen = reading.distribution.best()
        decisions = [
            priced(Decision(row[0], self._shares(shares)), self._task, self._experiment, each.cost_weight)
            for each, row, shares in zip(asked, chosen, reading.distribution.marginals().tolist(), strict=True)
        ]
        log_p = reading.distribution.log_probability([[d.assignment] for d in decisions])
        settled = [
            self._settled(each, decision, confidence)
            for each, decision, (confidence,) in zip(asked, decisions, log_p.exp().tolist(), strict=True)
        ]
        wanted = [one.assignment if each.adapted else () for each, one in zip(asked, settled, strict=True)]
        adapters = self._router.adapters_of(reading, wanted)
        return [
            _routed(one, {name: adapter for (row, name), adapter in adapters.items() if row == place})
            for place, one in enumerate(settled)
        ]

    def _worded(self, asked: Asked) -> Question:
        question = Question("asked", asked.question, "")
        if isinstance(self._task, Tabled):
            question = self._task.worded(question)
        return told([question], self._experiment, asked.cost_weight)[0]

    def _shares(self, marginals: Sequence[Sequence[float]]) -> tuple[dict[str, float], ...]:
        return tuple(dict(zip(self._names, shares, strict=True)) for shares in marginals)

    def _settled(self, asked: Asked, decision: Decision, confidence: float) -> Decided:
        """Who answers, whoever the router would choose."""
        found = Decided(decision.assignment, decision.probabilities, confidence)
        if asked.candidate is not None:
            return replace(found, assignment=(asked.candidate,))
        if self._gate is not None and self._gate.opens(decision.assignment, confidence):
            return replace(found, assignment=self._gate.instead(decision.assignment), escalated=True)
        return found


def _routed(decided: Decided, adapters: Mapping[str, Adapter]) -> Routed:
    from haps_search.lora.adapter import adapter_norm

    norms = {name: adapter_norm([adapter]) for name, adapter in adapters.items()}
    return Routed(replace(decided, norms=norms), adapters)


@dataclass(eq=False, slots=True)
class _Wanted:
    """A request, who hears of it, and how many characters were said already."""

    request: SampleRequest
    hears: Hears | None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    said: int = 0

    def hear(self, text: str) -> None:
        """From the thread at work; `text` is all of it so far, so that a batch may begin anew."""
        if self.hears is not None and len(text) > self.said:
            self.loop.call_soon_threadsafe(self.hears, text[self.said :])
            self.said = len(text)


class CandidateHost:
    """Implements `Answers` with a candidate at hand. `rows` are the most of a batch."""

    def __init__(self, candidate: Candidate, rows: int, threads: Executor) -> None:
        self._candidate = candidate
        self._line: Line[_Wanted, Sampled] = Line(self._work, rows, threads)

    async def sample(self, request: SampleRequest, hears: Hears | None = None) -> Sampled:
        wanted = _Wanted(request, hears)
        if isinstance(self._candidate, Elsewhere):  # nothing is gained by a batch, and nobody waits for its slowest
            (sampled,) = await self._candidate.sampled([request])
        else:
            sampled = await self._line.ask(wanted)
        if hears is not None and len(sampled.text) > wanted.said:
            hears(sampled.text[wanted.said :])
        return sampled

    def _work(self, waiting: Sequence[Ticket[_Wanted, Sampled]]) -> list[Sampled]:
        requests = [ticket.item.request for ticket in waiting]
        if not isinstance(self._candidate, Watched):
            return self._candidate.sample(requests)

        def watch(place: int, text: Callable[[], str]) -> bool:
            ticket = waiting[place]
            if ticket.item.hears is not None:
                ticket.item.hear(text())
            return ticket.wanted

        return self._candidate.sample_watched(requests, watch)
