"""What the driver sees and the broker cannot: nodes that vanish, and where else a candidate might load."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from haps_search.config.engines import ClusterProfile, Resources
from haps_search.engines.cluster.failures import got
from haps_search.engines.cluster.protocol import Hung, Refusal, Tended
from haps_search.errors import CandidateError, Kind, PoolError
from haps_search.faults.kinds import kind_of
from haps_search.faults.policy import CALLS, first_line, persistently

_log = logging.getLogger(__name__)
EVERY_S, STOP_S = 1.0, 5.0
CALL_S = 60.0
"""A broker that has not answered by then hangs, or cannot be reached."""
LATE_S = 30.0
"""A candidate without a worker for so long is late; before that it is starting."""
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Node:
    """A node that lives: its id, its address, and all it has, whoever uses it."""

    id: str
    address: str
    cpus: float
    gpus: float

    def holds(self, wanted: Resources) -> bool:
        return self.cpus >= wanted.cpus - _CLOSE and self.gpus >= wanted.gpus - _CLOSE


class Moves(Protocol):
    """Starts a worker of a candidate that avoids nodes. Implemented by the pool."""

    def elsewhere(self, candidate: str, avoided: Collection[str]) -> None: ...


class Watch:
    """Looks at the nodes every `EVERY_S` in a thread of its own, until `stop` or the end of pool or broker."""

    def __init__(self, broker: Any, pool: Moves, profile: ClusterProfile) -> None:
        self._broker, self._pool, self._profile = broker, pool, profile
        self._refused: dict[str, dict[str, str]] = {}
        """Candidate -> nodes that could not load it, by id, with their addresses."""
        self._trying: dict[str, set[str]] = {}
        """Of these nodes, those where a worker tries it again."""
        self._moved: set[tuple[str, str]] = set()
        """Candidates and nodes for which another worker was begun elsewhere."""
        self._troubles: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._looks = 0
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.waits: tuple[str, ...] = ()
        """What the session waits for now, a line each; read by displays."""
        self.loading: tuple[str, ...] = ()
        """What is being loaded for the first time, a line each."""
        self.ended: str | None = None
        """Why the pool or its broker is gone for good; known without asking anybody."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """False where it is still in a call of Ray that does not come back."""
        self._leaving.set()
        self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self.ended is None and not self._leaving.wait(EVERY_S):
                self._look()
        except Exception as error:  # noqa: BLE001 - whoever relies on it must hear of its end, whatever ended it
            if not self._leaving.is_set():
                self.ended, self.waits = f"the broker is gone: {first_line(error)}", ()
            if not isinstance(error, PoolError | ray.exceptions.RayError | ConnectionError):
                _log.exception("the watch over nodes and broker ended")

    def _look(self) -> None:
        nodes = alive()
        self._addresses |= {node.id: node.address for node in nodes}
        self._looks += 1
        tended = persistently(lambda: self._tended(nodes), "the broker", CALLS, stop=self._leaving.is_set)
        self.ended = tended.ended
        for refusal in tended.refusals:
            self._answer(refusal, nodes)
        for hung in tended.hung:
            _log.warning("worker %s (process %d) hangs and is ended", hung.worker, hung.pid)
            end_process(hung)
        absent = {*tended.missing, *tended.loading}
        troubles = (line for name, line in self._troubles.items() if name in absent)
        late = late_of(tended.missing, self._profile)
        self.waits = (*waits(late, self._profile, nodes), *troubles)
        starting = [name for name in tended.missing if name not in {*late, *tended.loading}]
        self.loading = (
            *(f"{name} has been loading for {s:.0f} s" for name, s in tended.loading.items()),
            *(f"a worker of {name} is being started" for name in starting),
        )

    def _tended(self, nodes: Sequence[Node]) -> Tended:
        tended: Tended = got(self._broker.tend.remote([node.id for node in nodes], self._looks), CALL_S)
        return tended

    def _answer(self, refusal: Refusal, nodes: Sequence[Node]) -> None:
        """Load it elsewhere too; end the pool where it can load nowhere, and nobody tries it again."""
        name = refusal.candidate
        where = self._addresses.get(refusal.node, refusal.node[:8])
        refused, trying = self._refused.setdefault(name, {}), self._trying.setdefault(name, set())
        refused[refusal.node] = where
        if refusal.final:
            trying.discard(refusal.node)
        else:
            trying.add(refusal.node)
            self._troubles[name] = f"{name} does not load on node {where} now: {refusal.error}; tried again"
        wanted = self._profile.resources_of(name)
        if any(node.id not in refused and node.holds(wanted) for node in nodes):
            if (name, refusal.node) not in self._moved:
                self._moved.add((name, refusal.node))
                _log.warning("node %s: %s; loading it on another node", where, refusal.error)
                self._pool.elsewhere(name, tuple(refused))
            return
        if trying & {node.id for node in nodes}:
            return
        tried = ", ".join(refused.values())
        error = CandidateError(f"node {tried}: {refusal.error}; no other node has room for it")
        self._broker.fail_all.remote(str(error), error)


def alive() -> list[Node]:
    return [
        Node(n["NodeID"], n["NodeManagerAddress"], n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0))
        for n in ray.nodes()
        if n["Alive"]
    ]


def end_process(hung: Hung) -> None:
    """Kill it on its node, so that Train replaces it; nobody waits for that."""
    there = NodeAffinitySchedulingStrategy(hung.node, soft=False)
    ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there).remote(hung.pid)


def _kill(pid: int) -> None:
    """Only what Ray has started: the number may have been given to another process by now."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            os.kill(pid, signal.SIGKILL)


def late_of(missing: Mapping[str, float], profile: ClusterProfile) -> dict[str, float]:
    """Of candidates without a worker those that have long had none; both give the seconds left."""
    patience = min(LATE_S, profile.worker_start_timeout_s / 2)
    return {name: left for name, left in missing.items() if profile.worker_start_timeout_s - left >= patience}


def waits(missing: Mapping[str, float], profile: ClusterProfile, nodes: Sequence[Node]) -> tuple[str, ...]:
    """A line per candidate whose requests wait and that no worker hosts; `missing` gives the seconds left."""
    lines = []
    for name, left in missing.items():
        wanted = profile.resources_of(name)
        lines.append(
            f"waiting for a worker of {name}: it needs {wanted.gpus:g} GPUs and {wanted.cpus:g} CPUs on one of "
            f"{len(nodes)} nodes; ends in {left:.0f} s if none comes (worker_start_timeout_s)"
        )
    return tuple(lines)


def ended_by(call: Callable[[], Any]) -> str | None:
    """Why the pool has ended, by a broker that may be gone itself; None while it lives."""
    try:
        status: Mapping[str, Any] = call()
    except (PoolError, ray.exceptions.RayError) as error:
        return None if kind_of(error) is Kind.TRANSIENT else f"the broker is gone: {error}"
    ended = status["ended"]
    return None if ended is None else str(ended)
