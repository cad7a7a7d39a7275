"""Sixteen workers and eight trials on a real Ray, all trivial: what tickets cost, with kills in between and without."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import ray

from benchmarks.echo import PATIENCE_S, Pool, echoes, kill, requests
from benchmarks.measure import Figure, Measured, Target
from benchmarks.on_ray import bare_ray
from benchmarks.scale import Processes, Scale
from haps_search.engines.cluster.broker import Broker

FIGURES = ("many_workers_wrong", "many_workers_kills", "many_workers_broker")


class TimedBroker(Broker):
    """Says how much CPU its process has used."""

    async def cpu_s(self) -> float:
        return time.process_time()


def measure(scale: Scale, threads: int, started: Callable[[], AbstractContextManager[None]] = bare_ray) -> Measured:
    """Every trial asks twice for the same number of answers: undisturbed, and while workers are killed in turn."""
    size = scale.processes
    with started():
        pool = Pool(calls=10 * (size.workers + size.trials), broker=TimedBroker, workers=size.workers, leases=_LEASES)
        try:
            crowd = _Crowd(pool, size)
            quiet, killed = crowd.asked("q"), crowd.asked("k", size.kills)
            status = pool.status()
        finally:
            pool.end()
    figures = (
        Figure(
            "many_workers_wrong", f"answers wrong, missing or twice, {size.workers} workers, {size.trials} trials",
            (float(quiet.wrong + killed.wrong),), Target(0.0),
        ),
        Figure(
            "many_workers_kills", f"wall time with {size.kills} workers killed in between / without",
            (killed.seconds / quiet.seconds,),
        ),
        Figure("many_workers_broker", "ms of the broker's CPU per ticket", (1e3 * quiet.broker_s / quiet.tickets,)),
    )  # fmt: skip
    counts = {name: status[name] for name in ("tickets", "leases", "requeued", "late", "lost", "dropped")}
    seconds = {"quiet": [quiet.seconds], "kills": [killed.seconds]}
    settings = {**asdict(size), "counts": counts, "quiet": asdict(quiet), "killed": asdict(killed)}
    return Measured(figures, seconds, settings)


_LEASES = {"rows": 4, "attempts": 100}
_BATCH_S = 0.02


@dataclass(frozen=True, slots=True)
class _Asked:
    """One round of all trials."""

    seconds: float
    tickets: int
    wrong: int
    broker_s: float


class _Crowd:
    def __init__(self, pool: Pool, size: Processes) -> None:
        self._pool, self._size, self._chance = pool, size, random.Random(0)
        self._workers = pool.workers([f"echo/{i}" for i in range(size.workers)], _BATCH_S)
        self._trials = pool.trials(size.trials)
        pool.until(lambda status: len(status["workers"]) == size.workers, 300)

    def asked(self, prefix: str, kills: int = 0) -> _Asked:
        size, before, began = self._size, self._seen(), time.perf_counter()
        asked = {f"{prefix}{i}.": trial for i, trial in enumerate(self._trials)}
        answers = {name: trial(name, size.requests) for name, trial in asked.items()}
        for number in range(kills):
            self._kill(before[1], (number + 1) / (kills + 1))
        wrong = sum(self._wrong(name, answer) for name, answer in answers.items())
        after = self._seen()
        seconds, tickets, lost = time.perf_counter() - began, after[1] - before[1], after[2] - before[2]
        # Each request once, and once more for every one that was lost.
        twice = abs(tickets - lost - size.trials * -(-size.requests // _LEASES["rows"]))
        return _Asked(seconds, tickets, wrong + twice, after[0] - before[0])

    def _seen(self) -> tuple[float, int, int]:
        status = self._pool.status()
        cpu: float = ray.get(self._pool.broker.cpu_s.remote(), timeout=PATIENCE_S)
        return cpu, status["tickets"], status["lost"]

    def _wrong(self, name: str, answer: Any) -> int:
        wanted = echoes(requests(name, self._size.requests))
        found = ray.get(answer, timeout=600)
        return sum(one != other for one, other in zip(found, wanted, strict=False)) + abs(len(found) - len(wanted))

    def _kill(self, before: int, share: float) -> None:
        """A worker, and another in its place, when so large a share of the tickets has been leased."""
        tickets = self._size.trials * -(-self._size.requests // _LEASES["rows"])
        self._pool.until(lambda status: status["tickets"] - before - status["open"] >= share * tickets, 600)
        name = self._chance.choice(sorted(self._workers))
        kill(self._workers[name])
        self._workers |= self._pool.workers([name], _BATCH_S)
