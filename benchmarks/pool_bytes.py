"""Bytes of a step through the broker and through the object store, against the least there can be; and its time against
that of the commit where everything went through the broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from benchmarks.another_commit import BASE, in_turns
from benchmarks.measure import Figure, Measured, Target, ratios
from benchmarks.on_ray import bare_ray
from benchmarks.pool_step import NumbersRouter, WorkerProcess, steps
from benchmarks.scale import Payload, Scale
from haps_search.engines.cluster.broker import Broker

FIGURES = ("pool_bytes_broker", "pool_bytes_store", "pool_bytes_step")
_FLOAT = 4
_BY_VALUE = 100_000
"""From so many bytes on Ray puts an argument or a result into the store by itself."""
_PROGRAM = Path(__file__).with_name("pool_step.py")


def measure(scale: Scale, threads: int, started: Callable[[], AbstractContextManager[None]] = bare_ray) -> Measured:
    """One trial and one candidate; adapters are numbers out of nowhere, and gradients too."""
    bytes_of = [_metered(payload, started) for payload in scale.payloads]
    what = ", ".join(f"P = {p.size:,}" for p in scale.payloads)
    figures = [
        Figure(
            "pool_bytes_broker", f"bytes through the broker per ticket, the most of {what}",
            (max(met.per_ticket for met in bytes_of),), Target(1024.0),
        ),
        Figure(
            "pool_bytes_store", f"bytes put into the store / adapters once and gradients once, the most of {what}",
            (max(met.store / met.least for met in bytes_of),), Target(1.2),
        ),
    ]  # fmt: skip
    seconds: dict[str, list[float]] = {}
    base = os.environ.get(BASE)
    if base:
        timed = scale.timed
        seconds = in_turns(Path(base), _PROGRAM, (timed.size, timed.questions, timed.episodes), scale.slow_rounds)
        what = f"step time, references / by value at a40b5d5, P = {timed.size:,}, Q = {timed.questions}"
        figures.append(Figure("pool_bytes_step", what, ratios(seconds["here"], seconds["base"]), Target(0.25)))
    settings = {"bytes": [asdict(met) for met in bytes_of], "timed": asdict(scale.timed)}
    return Measured(tuple(figures), seconds, settings)


@dataclass(frozen=True, slots=True)
class _Met:
    """Bytes of one step, and the tickets that it took; `polls` are those of calls that brought nothing."""

    payload: Payload
    tickets: int
    broker: int
    store: int
    polls: int

    @property
    def per_ticket(self) -> float:
        return self.broker / self.tickets

    @property
    def least(self) -> int:
        return 2 * _FLOAT * self.payload.size * self.payload.questions


class Meter:
    """Counts, in its process, what is put and what calls carry."""

    def __init__(self) -> None:
        self.put = self.called = 0
        self._really = ray.put

    def install(self) -> Meter:
        """Every later `ray.put` of this process counts."""
        ray.put = self._putting
        return self

    def remove(self) -> None:
        ray.put = self._really

    def carried(self, *values: object) -> None:
        """By a call or its result."""
        for size in map(_serialized, values):
            self.called += size
            self.put += size if size > _BY_VALUE else 0

    def _putting(self, value: object, **options: Any) -> Any:
        self.put += _serialized(value)
        return self._really(value, **options)


def _serialized(value: object) -> int:
    context = ray._private.worker.global_worker.get_serialization_context()
    size: int = context.serialize(value).total_bytes
    return size


class MeteredBroker(Broker):
    """Counts what calls carry for tickets. Polls that end with nothing are as many as seconds pass, whatever is asked:
    they are counted apart."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._meter, self._polls = Meter(), Meter()

    async def submit(self, *given: Any) -> Any:
        self._meter.carried(given)
        return await super().submit(*given)

    async def withdraw(self, *given: Any) -> Any:
        self._meter.carried(given)
        return await super().withdraw(*given)

    async def collect(self, *given: Any) -> Any:
        found = await super().collect(*given)
        (self._meter if found else self._polls).carried(given, found)
        return found

    async def exchange(self, worker: str, session: int, done: Any, *given: Any) -> Any:
        # When it is handed in, since the call comes back with the next step's work.
        (self._polls if done is None else self._meter).carried((worker, session, done, *given))
        found = await super().exchange(worker, session, done, *given)
        (self._polls if found is None else self._meter).carried(found)
        return found

    async def met(self) -> tuple[int, int]:
        """Bytes put by Ray itself, and carried for tickets."""
        return self._meter.put, self._meter.called

    async def polled(self) -> int:
        """Bytes of polls that brought nothing."""
        return self._polls.called


class MeteredRouter(NumbersRouter):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._meter = Meter().install()

    def route(self, *given: Any) -> Any:
        found = super().route(*given)
        self._meter.carried(given, found)
        return found

    def update(self, *given: Any) -> Any:
        found = super().update(*given)
        self._meter.carried(given, found)
        return found

    def met(self) -> tuple[int, int]:
        return self._meter.put, self._meter.called


class MeteredWorker(WorkerProcess):
    def __init__(self) -> None:
        self._meter = Meter().install()

    def met(self) -> tuple[int, int]:
        return self._meter.put, self._meter.called


def _metered(payload: Payload, started: Callable[[], AbstractContextManager[None]]) -> _Met:
    """The second step of a trial, when everything has been loaded."""
    kinds = {"broker": MeteredBroker, "router": MeteredRouter, "worker": MeteredWorker}
    with started(), steps(payload.size, payload.questions, payload.episodes, **kinds) as run:
        meter = Meter().install()
        try:
            run.step(0)
            before = _seen(run, meter)
            run.step(1)
            after = _seen(run, meter)
        finally:
            meter.remove()
    return _Met(payload, *(b - a for a, b in zip(before, after, strict=True)))


def _seen(run: Any, meter: Meter) -> tuple[int, int, int, int]:
    """Tickets, bytes carried by the broker's calls, bytes put by anyone, and those of idle polls."""
    told = [ray.get(actor.met.remote()) for actor in (run.broker, run.router, run.worker)]
    tickets: int = ray.get(run.broker.status.remote())["tickets"]
    return tickets, told[0][1], meter.put + sum(put for put, _ in told), ray.get(run.broker.polled.remote())
