"""What the driver sees and the broker cannot: nodes that vanish, and where else a candidate might load."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from haps_search.config.engines import ClusterProfile, Resources
from haps_search.engines.cluster.failures import first_line, unwrapped
from haps_search.engines.cluster.protocol import Refusal, Tended
from haps_search.errors import CandidateError, PoolError

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
        addresses: dict[str, str] = {}
        while self.ended is None and not self._leaving.wait(EVERY_S):
            try:
                nodes = alive()
                addresses |= {node.id: node.address for node in nodes}
                asked = self._broker.tend.remote([node.id for node in nodes])
                tended: Tended = ray.get(asked, timeout=CALL_S)
            except (ray.exceptions.RayError, ConnectionError) as error:
                self.ended, self.waits = f"the broker is gone: {first_line(error)}", ()
                return
            self.ended = tended.ended
            for refusal in tended.refusals:
                self._answer(refusal, nodes, addresses)
            self.waits = waits(tended.missing, self._profile, nodes)
            starting = [name for name in tended.missing if name not in tended.loading]
            self.loading = (
                *(f"{name} has been loading for {s:.0f} s" for name, s in tended.loading.items()),
                *(f"a worker of {name} is being started" for name in starting if not self.waits),
            )

    def _answer(self, refusal: Refusal, nodes: Sequence[Node], addresses: Mapping[str, str]) -> None:
        """Load it elsewhere, or end the pool where there is no elsewhere."""
        name = refusal.candidate
        where = addresses.get(refusal.node, refusal.node[:8])
        refused = self._refused.setdefault(name, {})
        refused[refusal.node] = where
        wanted = self._profile.resources_of(name)
        if any(node.id not in refused and node.holds(wanted) for node in nodes):
            _log.warning("node %s: %s; loading it on another node", where, refusal.error)
            self._pool.elsewhere(name, tuple(refused))
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


def waits(missing: Mapping[str, float], profile: ClusterProfile, nodes: Sequence[Node]) -> tuple[str, ...]:
    """A line per candidate whose requests wait and that has long had no worker; `missing` gives the seconds left."""
    lines = []
    for name, left in missing.items():
        if profile.worker_start_timeout_s - left < min(LATE_S, profile.worker_start_timeout_s / 2):
            continue
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
    except PoolError as error:
        return f"the broker is gone: {error}"
    except ray.exceptions.RayError as error:
        return f"the broker is gone: {unwrapped(error)}"
    ended = status["ended"]
    return None if ended is None else str(ended)
