"""Who hosts what: workers on their way, at work, refused or gone, and for how long a candidate has had none.

Plain state, told what time it is. It knows no lease.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from haps_search.config.engines import Leases
from haps_search.engines.cluster.protocol import Hung, Refusal
from haps_search.errors import CandidateError, PoolError
from haps_search.types import ModuleTable


@dataclass
class Worker:
    """`session` is 0 while it is gone; `room` is how many tokens it takes at once."""

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


HANGS, HANGS_S = 1.5, 60.0
"""A worker that has said nothing for so many times `deadline_s`, and for so many seconds, hangs: its lease has gone to
others long ago."""


class Roster:
    """`silence_s` is how long a candidate may have no worker before `lost_for_good` says so."""

    def __init__(self, candidates: Collection[str], leases: Leases, silence_s: float, now: float) -> None:
        self._leases, self._silence_s = leases, silence_s
        self.workers: dict[str, Worker] = {}
        self.tables: dict[str, ModuleTable] = {}
        self._sessions = 0
        self._starts: dict[str, int] = {}
        self._loading: dict[str, _Loading] = {}
        self._refusals: list[Refusal] = []
        self._refused: set[tuple[str, str, bool]] = set()
        self._unserved: dict[str, list[str]] = {}
        """Nodes of a worker's starts since it answered last."""
        self._seen: set[str] = set()
        self._lost: set[str] = set()
        """Nodes that were there, and that are gone."""
        self._told = 0
        self._awaited = dict.fromkeys(candidates, now)
        """Since when no worker of a candidate that nobody has loaded yet is there or on its way."""
        self._unasked = dict.fromkeys(candidates, now)
        """When nobody waited last for a candidate, or one of its workers was busy."""

    def arrive(self, worker: str, candidate: str, node: str, now: float) -> int:
        """A process is about to load its candidate; returns which start of this worker it is.

        Counted here, because a process that dies while it loads never registers. Raises PoolError for one too many.
        """
        self.leave(worker, now)
        self._loading[worker] = _Loading(candidate, node, now)
        starts = self._starts[worker] = self._starts.get(worker, 0) + 1
        self._unserved.setdefault(worker, []).append(node)
        died = sum(each not in self._lost for each in self._unserved[worker]) - 1
        if died > self._leases.restarts:
            raise PoolError(
                f"worker {worker} of candidate {candidate} died {died} times without an answer in between; "
                "see the pool's log for why, or raise leases.restarts in the cluster profile"
            )
        return starts

    def answered(self, worker: str) -> None:
        """It has done something: what happened to it before is forgotten."""
        self._unserved.pop(worker, None)

    def register(self, worker: str, table: ModuleTable, pid: int, node: str, start: int, now: float) -> int:
        """It has loaded its candidate, or begins again; returns its session.

        Raises PoolError where a later start of it has arrived: it should leave.
        """
        if start < self._starts.get(worker, 0):
            raise PoolError(f"worker {worker} was replaced")
        self._loading.pop(worker, None)
        before = self.workers.get(worker)
        self._sessions += 1
        registrations = before.registrations + 1 if before else 1
        self.workers[worker] = Worker(table.candidate, self._sessions, pid, node, registrations, now)
        self.tables[table.candidate] = table
        return self._sessions

    def serving(self, worker: str, session: int) -> Worker:
        """Raises PoolError where this is not the worker's present session."""
        found = self.workers.get(worker)
        if found is None or found.session != session:
            raise PoolError(f"worker {worker} was replaced")
        return found

    def serves(self, worker: str, candidate: str) -> bool:
        found = self.workers.get(worker)
        return found is not None and found.session > 0 and found.candidate == candidate

    def hosts(self, candidate: str) -> bool:
        """Whether some worker of it is there."""
        return any(worker.session and worker.candidate == candidate for worker in self.workers.values())

    def leave(self, worker: str, now: float) -> None:
        """Its process is gone, if there was one."""
        if worker in self.workers:
            self.workers[worker].session, self.workers[worker].heard = 0, now

    def refuse(self, worker: str, candidate: str, node: str, error: CandidateError, final: bool = True) -> None:
        """It did not load on this node. Said again by the same worker of the same node, it is no news."""
        if final:
            self._loading.pop(worker, None)
        if (worker, node, final) not in self._refused:
            self._refused.add((worker, node, final))
            self._refusals.append(Refusal(candidate, node, error, final))

    def news(self) -> tuple[Refusal, ...]:
        """Refusals not told before."""
        fresh, self._told = self._refusals[self._told :], len(self._refusals)
        return tuple(fresh)

    def stranded(self, alive: Collection[str]) -> list[str]:
        """Workers whose nodes have vanished, `alive` being the ids of those that live."""
        self._seen |= set(alive)
        self._lost = self._seen - set(alive)
        self._loading = {key: each for key, each in self._loading.items() if each.node in alive or not each.node}
        return [key for key, worker in self.workers.items() if worker.session and worker.node not in alive]

    def hung(self, now: float) -> list[Hung]:
        """Workers that have said nothing for too long, whatever they hold."""
        limit_s = max(HANGS * self._leases.deadline_s, HANGS_S)
        return [
            Hung(key, worker.pid, worker.node)
            for key, worker in self.workers.items()
            if worker.session and now - worker.heard > limit_s
        ]

    def loading(self, now: float) -> dict[str, float]:
        """Candidates that are being loaded for the first time, and for how many seconds."""
        return {w.candidate: now - w.since for w in self._loading.values() if w.candidate not in self.tables}

    def missing(self, wanted: Iterable[str], now: float) -> dict[str, float]:
        """Candidates without a worker, of those that tickets wait for and those never loaded, with seconds left."""
        hosted = {w.candidate for w in self.workers.values() if w.session}
        since = {name: self._heard(name) for name in wanted if name not in hosted} | self._absent(now)
        return {name: max(self._silence_s - (now - at), 0.0) for name, at in since.items()}

    def lost_for_good(self, waiting: Mapping[str, bool], busy: Collection[str], now: float) -> str | None:
        """Why the pool has to end, None where it has not; `waiting` says of each candidate whether tickets wait."""
        return self._never_placed(now) or self._silent(waiting, busy, now)

    def _absent(self, now: float) -> dict[str, float]:
        there = {each.candidate for each in self._loading.values()} | set(self.tables)
        self._awaited |= dict.fromkeys(there, now)
        return {name: since for name, since in self._awaited.items() if name not in there}

    def _never_placed(self, now: float) -> str | None:
        gone = [name for name, since in self._absent(now).items() if now - since > self._silence_s]
        if not gone:
            return None
        refused = "; ".join(str(r.error) for r in self._refusals if r.candidate in gone)
        return (
            f"no worker of {', '.join(gone)} was placed within {self._silence_s:g} s: the cluster has no free CPUs "
            "or GPUs, or none of its nodes has what one worker asks for together (candidate in the cluster "
            "profile); `haps plan` says who needs what"
            f"{f'. Elsewhere it did not load: {refused}' if refused else ''}"
        )

    def _silent(self, waiting: Mapping[str, bool], busy: Collection[str], now: float) -> str | None:
        hosted = {w.candidate for w in self.workers.values() if w.session}  # a hung one among them is replaced first
        for name, wanted in waiting.items():
            if not wanted or name in busy or name in hosted:
                self._unasked[name] = now
            elif now - self._heard(name) > self._silence_s:
                return (
                    f"no worker of candidate {name} was heard of for {self._silence_s:g} s "
                    "(worker_start_timeout_s): its node was lost and no other has room for it, or it hangs; go on "
                    "when there is room"
                )
        return None

    def _heard(self, candidate: str) -> float:
        """When a worker of this candidate was heard of last, or nobody asked for it."""
        heard = [w.heard for w in self.workers.values() if w.candidate == candidate]
        return max([*heard, self._unasked[candidate]])
