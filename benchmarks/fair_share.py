"""Two trials of very different speeds on one pool: what each gets of its tokens while both have requests waiting."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.measure import Figure, Measured, Target, interleaved
from benchmarks.on_ray import Opened, opened, resources
from benchmarks.scale import Scale
from benchmarks.subjects import babbling, letters
from haps_search.engines.cluster.remote_candidates import RemoteCandidates
from haps_search.engines.cluster.session import Session
from haps_search.engines.cluster.wire import estimated_tokens
from haps_search.types import Message, SampleRequest, Sampling

FIGURES = ("fair_share",)
_WAITING = 24
"""Tickets that a trial has waiting at any moment: more than a lease takes."""


@dataclass(frozen=True, slots=True)
class _Asker:
    """A trial that asks as fast as it is answered: tickets of so many rows, prompts and texts of so many tokens."""

    name: str
    rows: int
    prompt: int
    new: int


def measure(scale: Scale, threads: int, open_session: Opened = opened) -> Measured:
    """`middle` is the candidate; the slow trial asks for texts many times as long, in tickets a quarter as large."""
    quick = _Asker("quick", 8, scale.pool.prompt, 1)
    slow = _Asker("slow", 2, 2 * scale.pool.prompt, scale.alone.new)
    with tempfile.TemporaryDirectory() as folder:
        lm = babbling(scale.middle.save(Path(folder)), ["lm"], scale.pool, threads)
        with open_session(lm.experiment, **resources(threads), leases={"rows": 32}) as live:
            live.wait_for_candidates()
            crowd = _Crowd(live, (quick, slow), _WAITING * scale.slow_rounds)
            found = interleaved({"both": crowd.both}, scale.slow_rounds)
    shares = tuple(min(each.values()) / max(each.values()) for each in crowd.served[1:])
    what = "tokens of the trial that got fewer / of the other, lengths and tickets very different"
    settings = {
        "trials": [asdict(quick), asdict(slow)],
        "waiting": _WAITING,
        "served": [dict(each) for each in crowd.served[1:]],
    }
    return Measured((Figure("fair_share", what, shares, Target(0.8, at_least=True)),), found, settings)


class _Crowd:
    """Counts what is answered until the trial that is answered less often has had `tickets`."""

    def __init__(self, live: Session, askers: tuple[_Asker, ...], tickets: int) -> None:
        self._askers, self._tickets = {asker: _candidates(live, asker) for asker in askers}, tickets
        self.served: list[Counter[str]] = []

    def both(self, number: int) -> None:
        asyncio.run(self._both(number))

    async def _both(self, number: int) -> None:
        served, answered = Counter[str](), Counter({asker.name: 0 for asker in self._askers})

        async def asking(asker: _Asker, which: int) -> None:
            requests = _requests(asker, 1000 * number + which)
            cost = sum(estimated_tokens(request.messages, request.sampling.max_new_tokens) for request in requests)
            while True:
                await self._askers[asker].sample("lm", requests)
                served[asker.name] += cost
                answered[asker.name] += 1

        tasks = [asyncio.create_task(asking(asker, i)) for asker in self._askers for i in range(_WAITING)]
        while min(answered.values()) < self._tickets and not any(task.done() for task in tasks):
            await asyncio.sleep(0.05)
        self.served.append(served.copy())
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise RuntimeError(f"a trial was not answered: {outcome}")


def _candidates(live: Session, asker: _Asker) -> RemoteCandidates:
    return RemoteCandidates(live.broker, live.profile, trial=asker.name)


def _requests(asker: _Asker, number: int) -> list[SampleRequest]:
    asked = letters(asker.prompt)(number, asker.rows)
    how = Sampling(asker.new)
    return [SampleRequest((Message("user", q.text),), replace(how, seed=i)) for i, q in enumerate(asked)]
