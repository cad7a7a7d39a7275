"""The broker: per candidate a queue of parcels from all trials, leased by the workers that host it.

Plain asyncio, no Ray: the session makes an actor of it. It owns the futures of those who wait, by parcel,
so a worker that vanishes, answers late or answers twice can neither lose a parcel nor answer another's.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from haps_search.config.engines import Leases
from haps_search.engines.cluster.queue import FairQueue
from haps_search.engines.cluster.wire import (
    AnswerParcel,
    Done,
    Refusal,
    RequestParcel,
    SampledParcel,
    ScoredParcel,
    Tended,
    Work,
)
from haps_search.errors import CandidateError, HapsError, PoolError
from haps_search.types import ModuleTable

IDLE_POLL_S = 5.0
"""How long a worker's call waits for work before it comes back empty; shows that the worker lives."""


@dataclass(eq=False)
class _Job:
    parcel: RequestParcel
    answer: asyncio.Future[AnswerParcel]
    trial: str
    rows: int
    length: int
    attempts: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return self.rows * self.length

    @property
    def gone(self) -> bool:
        return self.answer.done()


@dataclass
class _Worker:
    candidate: str
    session: int
    pid: int
    node: str
    registrations: int
    heard: float
    room: float = math.inf


@dataclass(frozen=True)
class _Loading:
    candidate: str
    node: str
    since: float


@dataclass
class _Lease:
    worker: str
    jobs: list[_Job]
    deadline: float


class Broker:
    """Queues, leases and answers. `seats` is the number of workers per candidate."""

    def __init__(
        self,
        seats: Mapping[str, int],
        leases: Leases,
        silence_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seats, self._settings, self._silence_s, self._clock = dict(seats), leases, silence_s, clock
        self._queues: dict[str, FairQueue[_Job]] = {name: FairQueue() for name in seats}
        self._arrived: dict[str, asyncio.Event] = {name: asyncio.Event() for name in seats}
        self._tables: dict[str, ModuleTable] = {}
        self._workers: dict[str, _Worker] = {}
        self._leases: dict[int, _Lease] = {}
        self._expired: dict[int, _Lease] = {}
        self._numbers = itertools.count(1)
        self._starts: dict[str, int] = {}
        self._loading: dict[str, _Loading] = {}
        self._awaited = dict.fromkeys(seats, clock())
        self._refusals: list[Refusal] = []
        self._refused: set[tuple[str, str]] = set()
        self._told = 0
        self._over = asyncio.Event()
        self._ended: PoolError | None = None
        self._cause: HapsError | None = None
        self._changed = asyncio.Event()
        self._idle_since = dict.fromkeys(seats, clock())
        self._counts = {"parcels": 0, "rows": 0, "leases": 0, "requeued": 0, "late": 0, "narrowed": 0, "known": 0}
        self._reaper: asyncio.Task[None] | None = None

    # What trials call.

    async def submit(self, candidate: str, parcel: RequestParcel, trial: str = "") -> AnswerParcel:
        """Answer a parcel. Those of different trials take turns.

        Raises PoolError where the machines gave up, CandidateError where the candidate did.
        """
        self._start_reaper()
        if self._ended is not None:
            raise self._ended
        if candidate not in self._queues:
            raise PoolError(f"no candidate {candidate} in this pool: it hosts {', '.join(self._queues)}")
        job = _Job(parcel, asyncio.get_running_loop().create_future(), trial, parcel.rows, parcel.length)
        self._counts["parcels"] += 1
        self._counts["rows"] += parcel.rows
        self._enqueue(candidate, [job])
        return await job.answer

    async def tables(self) -> dict[str, ModuleTable]:
        """The module tables of all candidates, once each has a worker.

        Raises:
            PoolError: the pool has ended. CandidateError: it ended because a candidate does not load.
        """
        self._start_reaper()
        while self._ended is None and len(self._tables) < len(self._seats):
            self._changed.clear()
            await self._changed.wait()
        if self._ended is not None:
            # What loaded once and does not load again is the machines' failure.
            never_loaded = len(self._tables) < len(self._seats)
            raise (self._cause if never_loaded else None) or self._ended
        return dict(self._tables)

    async def status(self) -> dict[str, object]:
        """Counts, queue lengths and workers, for displays and tests.

        `narrowed`: how often a worker halved its room after its memory ran out; `known`: how many prompts workers
        still had.
        """
        return {
            **self._counts,
            "waiting": {name: len(queue) for name, queue in self._queues.items()},
            "leased": len(self._leases),
            "workers": {
                key: {
                    "candidate": w.candidate,
                    "pid": w.pid,
                    "node": w.node,
                    "registrations": w.registrations,
                    "room": w.room,
                }
                for key, w in self._workers.items()
            },
            "ended": str(self._ended) if self._ended else None,
        }

    # What workers call.

    async def arrive(self, worker: str, candidate: str, node: str = "") -> int:
        """A worker's process is about to load its candidate. Returns which start of it this is; 0 where it should
        leave, as the pool has ended.

        Restarts are counted here, because a process that dies while it loads never registers.
        """
        self._start_reaper()
        self._replace(worker, "its worker was replaced")
        self._loading[worker] = _Loading(candidate, node, self._clock())
        starts = self._starts[worker] = self._starts.get(worker, 0) + 1
        if starts > self._settings.restarts + 1:
            await self.fail_all(
                f"worker {worker} of candidate {candidate} died {starts - 1} times; "
                "see the pool's log for why, or raise leases.restarts in the cluster profile"
            )
        return 0 if self._ended is not None else starts

    async def register(
        self, worker: str, table: ModuleTable, pid: int, node: str, start: int, lost: str = "its worker was replaced"
    ) -> int:
        """A worker has loaded its candidate, or begins again. What it held before is given to others; `lost` says why.

        Returns its session. Raises PoolError where a later start of it has arrived: it should leave.
        """
        self._start_reaper()
        if start < self._starts.get(worker, 0):
            raise PoolError(f"worker {worker} was replaced")
        self._replace(worker, lost)
        self._loading.pop(worker, None)
        before = self._workers.get(worker)
        registrations = before.registrations + 1 if before else 1
        session = next(self._numbers)
        self._workers[worker] = _Worker(table.candidate, session, pid, node, registrations, self._clock())
        self._tables[table.candidate] = table
        self._changed.set()
        return session

    async def exchange(self, worker: str, session: int, done: Done | None, room: float = math.inf) -> Work | None:
        """Hand in an outcome and lease the next parcels, in one call so that the two cannot overtake each other.

        `room` is how many tokens the worker takes at once; a lease has no more, unless a single parcel has.
        Returns None where nothing came within `IDLE_POLL_S`. Raises PoolError when the pool has ended or the
        worker was replaced: it should leave.
        """
        if done is not None:
            self._settle(done)
        holder = self._workers.get(worker)
        if holder is None or holder.session != session:
            raise PoolError(f"worker {worker} was replaced")
        holder.heard = self._clock()
        self._counts["narrowed"] += math.isfinite(holder.room) and room < holder.room
        holder.room = room
        if self._ended is None and not self._queues[holder.candidate] and not await self._arrival(holder.candidate):
            return None
        if self._ended is not None:
            raise self._ended
        if self._workers[worker].session != session:  # replaced while it waited: nobody would answer its lease
            raise PoolError(f"worker {worker} was replaced")
        jobs = self._take(holder)
        if not jobs:
            return None
        number = next(self._numbers)
        self._leases[number] = _Lease(worker, jobs, self._clock() + self._settings.deadline_s)
        self._counts["leases"] += 1
        return Work(number, tuple(job.parcel for job in jobs))

    async def fail_all(self, reason: str, error: HapsError | None = None) -> None:
        """End the pool: everyone who waits, and everyone who comes later, is told why.

        `error` is the candidate's that did not load, for those who wait for its table.
        """
        if self._ended is not None:
            return
        self._ended, self._cause = PoolError(reason), error
        waiting = [job for queue in self._queues.values() for job in queue]
        waiting += [job for lease in self._leases.values() for job in lease.jobs]
        for queue in self._queues.values():
            queue.clear()
        self._leases.clear()
        for job in waiting:
            _answer(job, self._ended)
        self._changed.set()
        self._over.set()
        for event in self._arrived.values():
            event.set()

    async def refuse(self, worker: str, candidate: str, node: str, error: CandidateError) -> None:
        """A candidate does not load on a node; the worker keeps its seat, which no other is to get, until the end.

        Said again by the same worker of the same node, it is no news.
        """
        self._loading.pop(worker, None)
        if (worker, node) not in self._refused:
            self._refused.add((worker, node))
            self._refusals.append(Refusal(candidate, node, error))
        await self._over.wait()

    # What the driver calls.

    async def tend(self, alive: Sequence[str]) -> Tended:
        """Take back at once what workers of vanished nodes held, `alive` being the ids of those that live."""
        for key, worker in self._workers.items():
            if worker.session and worker.node not in alive:
                self._replace(key, "its worker's node was lost")
        self._loading = {key: each for key, each in self._loading.items() if each.node in alive or not each.node}
        fresh, self._told = self._refusals[self._told :], len(self._refusals)
        hosted = {w.candidate for w in self._workers.values() if w.session}
        now = self._clock()
        missing = {
            name: max(self._silence_s - (now - self._heard(name)), 0.0)
            for name, queue in self._queues.items()
            if queue and name not in hosted
        }
        missing |= {name: max(self._silence_s - (now - since), 0.0) for name, since in self._absent(now).items()}
        loading = {w.candidate: now - w.since for w in self._loading.values() if w.candidate not in self._tables}
        return Tended(tuple(fresh), missing, loading, str(self._ended) if self._ended else None)

    # Inside.

    def _enqueue(self, candidate: str, jobs: Sequence[_Job], first: bool = False) -> None:
        self._queues[candidate].put(jobs, first)
        self._arrived[candidate].set()

    async def _arrival(self, candidate: str) -> bool:
        self._arrived[candidate].clear()
        try:
            await asyncio.wait_for(self._arrived[candidate].wait(), IDLE_POLL_S)
        except TimeoutError:
            return self._ended is not None
        return True

    def _take(self, holder: _Worker) -> list[_Job]:
        jobs = self._queues[holder.candidate].take(self._settings.rows, holder.room)
        for job in jobs:
            job.attempts += 1
        return jobs

    def _settle(self, done: Done) -> None:
        late = done.lease not in self._leases
        self._counts["late"] += late
        lease = self._expired.pop(done.lease, None) if late else self._leases.pop(done.lease)
        if lease is None:
            return
        if late:  # right answers stay right; what failed has been given to others already
            for job, outcome in zip(lease.jobs, done.outcomes, strict=True):
                if isinstance(outcome, SampledParcel | ScoredParcel):
                    _answer(job, outcome)
            return
        candidate = self._workers[lease.worker].candidate
        again = []
        for job, outcome in zip(lease.jobs, done.outcomes, strict=True):
            if isinstance(outcome, SampledParcel | ScoredParcel):
                self._counts["known"] += outcome.known
                _answer(job, outcome)
            elif outcome.final:
                _answer(job, outcome.error)
            else:
                job.problems.append(str(outcome.error))
                again.append(job)
        self._retry(candidate, again)

    def _retry(self, candidate: str, jobs: Sequence[_Job]) -> None:
        again = []
        for job in jobs:
            if job.attempts < self._settings.attempts:
                again.append(job)
            else:
                _answer(
                    job,
                    PoolError(f"candidate {candidate}: {job.attempts} attempts failed: {job.problems[-1]}"),
                )
        if again:
            self._counts["requeued"] += len(again)
            self._enqueue(candidate, again, first=True)

    def _replace(self, worker: str, problem: str) -> None:
        """Its earlier process is gone, if there was one, or its answer is."""
        self._give_up([n for n, lease in self._leases.items() if lease.worker == worker], problem)
        self._expired = {n: lease for n, lease in self._expired.items() if lease.worker != worker}
        if worker in self._workers:
            self._workers[worker].session, self._workers[worker].heard = 0, self._clock()

    def _give_up(self, leases: Sequence[int], problem: str) -> None:
        for number in leases:
            lease = self._leases.pop(number)
            for job in lease.jobs:
                job.problems.append(problem)
            self._retry(self._workers[lease.worker].candidate, lease.jobs)

    def _start_reaper(self) -> None:
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        while self._ended is None:
            await asyncio.sleep(min(1.0, self._settings.deadline_s / 4))
            now = self._clock()
            expired = [n for n, lease in self._leases.items() if lease.deadline < now]
            self._expired |= {n: self._leases[n] for n in expired}
            self._give_up(expired, f"no answer within {self._settings.deadline_s:g} s (leases.deadline_s)")
            await self._notice_absence(now)
            await self._notice_silence(now)

    def _absent(self, now: float) -> dict[str, float]:
        """Since when no worker of a candidate that nobody has loaded yet is there or on its way; others count anew."""
        there = {each.candidate for each in self._loading.values()} | set(self._tables)
        self._awaited |= dict.fromkeys(there, now)
        return {name: since for name, since in self._awaited.items() if name not in there}

    async def _notice_absence(self, now: float) -> None:
        gone = [name for name, since in self._absent(now).items() if now - since > self._silence_s]
        if gone:
            refused = "; ".join(str(r.error) for r in self._refusals if r.candidate in gone)
            await self.fail_all(
                f"no worker of {', '.join(gone)} was placed within {self._silence_s:g} s: the cluster has no free CPUs "
                "or GPUs, or none of its nodes has what one worker asks for together (candidate in the cluster "
                "profile); `haps plan` says who needs what"
                f"{f'. Elsewhere it did not load: {refused}' if refused else ''}"
            )

    async def _notice_silence(self, now: float) -> None:
        for name, queue in self._queues.items():
            leased = any(self._workers[lease.worker].candidate == name for lease in self._leases.values())
            if not queue or leased:
                self._idle_since[name] = now
            elif now - self._heard(name) > self._silence_s:
                await self.fail_all(
                    f"no worker of candidate {name} was heard of for {self._silence_s:g} s "
                    "(worker_start_timeout_s): its node was lost and no other has room for it, or it hangs; go on "
                    "when there is room"
                )

    def _heard(self, candidate: str) -> float:
        """When a worker of this candidate was heard of last, or nobody asked for it."""
        heard = [w.heard for w in self._workers.values() if w.candidate == candidate]
        return max([*heard, self._idle_since[candidate]])


def _answer(job: _Job, outcome: AnswerParcel | HapsError) -> None:
    if job.answer.done():
        return
    if isinstance(outcome, HapsError):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)
