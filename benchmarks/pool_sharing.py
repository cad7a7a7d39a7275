"""Many trials on one pool: their wall time at once against one after another, and the candidates' memory."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.on_ray import Opened, engines, opened, resources
from benchmarks.scale import Scale
from benchmarks.subjects import Subject, babbling, changed, zoo
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.engines.cluster.session import Session

FIGURES = ("pool_sharing", "pool_sharing_zoo", "pool_memory", "pool_memory_zoo")
_SAMPLED_S = 0.05


def measure(scale: Scale, threads: int, open_session: Opened = opened) -> Measured:
    """The large candidate has `threads`, each of the zoo and every router one."""
    with tempfile.TemporaryDirectory() as folder:
        lm = babbling(scale.large.save(Path(folder)), ["lm"], scale.pool, threads)
        large = _shared(lm, scale.trials, scale.pool_steps, scale.slow_rounds, threads, open_session)
    tiny = _shared(zoo(scale.pool), scale.trials, scale.zoo_steps, scale.rounds, 1, open_session)
    both = (("large", large), ("zoo", tiny))
    seconds = {f"{pool} {variant}": values for pool, found in both for variant, values in found.seconds.items()}
    n = scale.trials
    figures = (
        # Of a step that computes for 64 rows a CPU can share nothing: `sharing` has the curve, and the bound.
        *_figures(("pool_sharing", "pool_memory"), f"{n} trials", "large candidate", large, None),
        *_figures(("pool_sharing_zoo", "pool_memory_zoo"), f"{n} trials", "zoo of three", tiny, Target(0.5)),
    )
    settings = {
        "trials": n,
        "size": asdict(scale.pool),
        "steps": {"large": scale.pool_steps, "zoo": scale.zoo_steps},
        "threads": {"large": threads, "zoo": 1},
        "rows_per_lease": {pool: found.rows_per_lease for pool, found in both},
        "busy_in_turn": {pool: found.busy for pool, found in both},
        "peak_bytes": {pool: [found.peak_of_one, found.peak_of_all] for pool, found in both},
    }
    return Measured(figures, seconds, settings)


@dataclass(frozen=True, slots=True)
class _Shared:
    """Seconds by variant; peak memory of all candidates' processes in bytes; how full the leases were at once; and what
    share of the candidates' threads worked while trials took turns: only the rest of it can be shared."""

    seconds: dict[str, list[float]]
    peak_of_one: int
    peak_of_all: int
    rows_per_lease: float
    busy: float


def _shared(subject: Subject, trials: int, steps: int, rounds: int, threads: int, open_session: Opened) -> _Shared:
    seeds = [changed(subject.experiment, {"seed": seed}) for seed in range(trials)]
    with open_session(subject.experiment, **resources(threads)) as live:
        crowd = _Crowd(live, [replace(subject, experiment=e) for e in seeds], asyncio.run(engines(live, seeds)), steps)
        with _Peak(live) as one:
            crowd.alone()
        with _Peak(live) as many:
            found = interleaved({"one after another": crowd.in_turn, "at once": crowd.at_once}, rounds)
        crowd.close()
        busy = crowd.worked / (len(live.status()["workers"]) * threads * crowd.in_turn_s)
    return _Shared(found, one.peak, many.peak, crowd.rows / crowd.leases, busy)


def _figures(
    names: tuple[str, str], trials: str, pool: str, found: _Shared, target: Target | None
) -> tuple[Figure, Figure]:
    times = ratios(found.seconds["at once"], found.seconds["one after another"])
    memory = (found.peak_of_all / found.peak_of_one,)
    return (
        Figure(names[0], f"wall time, {trials} at once / one after another, {pool}", times, target),
        Figure(names[1], f"candidates' memory, {trials} / 1, {pool}", memory, Target(1.05)),
    )


class _Crowd:
    """Trials with prompts of their own in every step of every round."""

    def __init__(self, live: Session, subjects: Sequence[Subject], hosts: Sequence[RayEngine], steps: int) -> None:
        self._live, self._trials, self._steps = live, list(zip(subjects, hosts, strict=True)), steps
        self._taken = 0
        self.rows = self.leases = 0
        self.worked = self.in_turn_s = 0.0

    def alone(self) -> None:
        """The first trial by itself, as many steps as all take together in a round."""
        for _ in self._trials:
            asyncio.run(self._trial(0))

    def in_turn(self, number: int) -> None:
        """All of them; the first alone where it warms up."""
        before, began = self._candidates_s(), time.perf_counter()
        for trial in range(len(self._trials) if number else 1):
            asyncio.run(self._trial(trial))
        if number:
            self.worked += self._candidates_s() - before
            self.in_turn_s += time.perf_counter() - began

    def at_once(self, _: int) -> None:
        async def everyone() -> None:
            await asyncio.gather(*(self._trial(trial) for trial in range(len(self._trials))))

        before = self._live.status()
        asyncio.run(everyone())
        after = self._live.status()
        self.rows += after["rows"] - before["rows"]
        self.leases += after["leases"] - before["leases"]

    def _candidates_s(self) -> float:
        """Seconds of all cores that the candidates' processes have used."""
        times = [psutil.Process(worker["pid"]).cpu_times() for worker in self._live.status()["workers"].values()]
        return sum(used.user + used.system for used in times)

    async def _trial(self, trial: int) -> None:
        subject, engine = self._trials[trial]
        for _ in range(self._steps):
            self._taken += 1
            await subject.stepped(engine, self._taken)

    def close(self) -> None:
        for _, engine in self._trials:
            asyncio.run(engine.close())


class _Peak:
    """The largest sum of the candidates' resident memory while open, in bytes."""

    def __init__(self, live: Session) -> None:
        self._processes = [psutil.Process(worker["pid"]) for worker in live.status()["workers"].values()]
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self.peak = 0

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, sum(process.memory_info().rss for process in self._processes))
            if self._over.wait(_SAMPLED_S):
                return

    def __enter__(self) -> _Peak:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
