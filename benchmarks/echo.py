"""A pool on Ray without models: a broker, workers that echo, and trials, each a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray

from haps_search.config.engines import ClusterProfile, Leases
from haps_search.engines.cluster import tickets
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.remote_candidates import RemoteCandidates
from haps_search.engines.cluster.worker import serve
from haps_search.types import Message, ModuleTable, Sampled, SampleRequest, Sampling, ScoreRequest, Scores

NAME = "echo"
PATIENCE_S = 600.0
"""For a call that costs nothing: processes that start leave two cores little to answer with."""


def requests(prefix: str, count: int) -> list[SampleRequest]:
    return [SampleRequest((Message("user", f"{prefix}{i}"),), Sampling(4)) for i in range(count)]


def echoes(asked: Sequence[SampleRequest]) -> list[str]:
    """What the pool has to answer."""
    return [request.messages[0].content.upper() for request in asked]


class Echo:
    """A candidate that imports no torch; a batch takes `seconds`."""

    table = ModuleTable(NAME, 1, ())
    room = 1_000_000

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def sample(self, asked: Sequence[SampleRequest]) -> list[Sampled]:
        time.sleep(self._seconds)
        return [Sampled(text, (1,), (-1.0,), 1, 1) for text in echoes(asked)]

    def score(self, asked: Sequence[ScoreRequest]) -> Scores:
        raise NotImplementedError("an echo weighs nothing")


class Impatient(Broker):
    """Takes trials for silent and for dead sooner."""

    def __init__(self, *given: Any, silent_s: float, dropped_s: float) -> None:
        tickets.SILENT_S, tickets.DROPPED_S = silent_s, dropped_s
        super().__init__(*given)


class WorkerProcess:
    """Serves until the pool ends."""

    def pid(self) -> int:
        return os.getpid()

    def work(self, broker: Any, name: str, seconds: float) -> None:
        start = ray.get(broker.arrive.remote(name, NAME))
        serve(broker, name, Echo(seconds), "node", start)


class TrialProcess:
    """Asks for `count` answers; its event loop stands still for `frozen_s` meanwhile."""

    def pid(self) -> int:
        return os.getpid()

    def ask(self, broker: Any, profile: ClusterProfile, prefix: str, count: int, frozen_s: float = 0.0) -> list[str]:
        async def frozen() -> None:
            if frozen_s:
                await asyncio.sleep(1.0)
                time.sleep(frozen_s)

        async def both() -> list[Sampled]:
            candidates = RemoteCandidates(broker, profile, trial=prefix)
            drawn, _ = await asyncio.gather(candidates.sample(NAME, requests(prefix, count)), frozen())
            candidates.leave()
            return drawn

        return [sampled.text for sampled in asyncio.run(both())]


class Pool:
    """Ends only what it started."""

    def __init__(
        self, calls: int = 100, broker: Any = Broker, workers: int = 1, leases: Any = None, **given: Any
    ) -> None:
        settings = Leases(**{"deadline_s": 60, "restarts": 1000, **(leases or {})})
        self.profile = ClusterProfile(name="test", leases=settings)
        actor = ray.remote(broker).options(num_cpus=0, max_concurrency=calls)
        self.broker: Any = actor.remote({NAME: workers}, self.profile.leases, 600.0, **given)
        self._started = [self.broker]

    def workers(self, names: Sequence[str], seconds: float = 0.0) -> dict[str, int]:
        """Starts workers under these names, new ones or those of lost ones; their process ids."""
        started = self.processes(len(names))
        return {name: self.work(process, name, seconds) for name, process in zip(names, started, strict=True)}

    def processes(self, count: int) -> list[tuple[Any, int]]:
        """Of workers that do nothing yet, and their ids."""
        started = [self._start(WorkerProcess) for _ in range(count)]
        return [(actor, ray.get(actor.pid.remote(), timeout=300)) for actor in started]

    def work(self, process: tuple[Any, int], name: str, seconds: float = 0.0) -> int:
        """Let one of them begin; its process id."""
        actor, pid = process
        actor.work.remote(self.broker, name, seconds)
        return pid

    def worker(self, name: str = f"{NAME}/0", seconds: float = 0.0) -> int:
        return self.workers([name], seconds)[name]

    def trial(self, prefix: str, count: int, frozen_s: float = 0.0) -> tuple[int, Any]:
        """One that asks: its process id, and what it will have been answered."""
        actor = self._start(TrialProcess)
        pid: int = ray.get(actor.pid.remote(), timeout=300)
        return pid, actor.ask.remote(self.broker, self.profile, prefix, count, frozen_s)

    def trials(self, count: int) -> list[Callable[[str, int], Any]]:
        """Those that ask when they are called."""
        started = [self._start(TrialProcess) for _ in range(count)]
        ray.get([actor.pid.remote() for actor in started], timeout=300)
        return [partial(actor.ask.remote, self.broker, self.profile) for actor in started]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = ray.get(self.broker.status.remote(), timeout=PATIENCE_S)
        return found

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
        """Raises TimeoutError where nothing has changed for so long."""
        before, since = None, time.monotonic()
        while not condition(status := self.status()):
            if status != before:
                before, since = status, time.monotonic()
            if time.monotonic() > since + seconds:
                raise TimeoutError(f"nothing new for {seconds:g} s: {status}")
            time.sleep(0.05)

    def end(self) -> None:
        ray.get(self.broker.fail_all.remote("it is over"), timeout=PATIENCE_S)
        for actor in reversed(self._started):
            ray.kill(actor)

    def _start(self, kind: type) -> Any:
        actor: Any = ray.remote(kind).options(num_cpus=0).remote()
        self._started.append(actor)
        return actor


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
