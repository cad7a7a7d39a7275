"""The workers of a pool, grouped by what they ask for: a Train run gives all its workers the same resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from haps_search.config.candidates import CandidateConfig, EndpointSource
from haps_search.config.engines import ClusterProfile, Nodes, Resources


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers of equal resources, one seat each. `spread`: over as many nodes as there are, else on few."""

    resources: Resources
    seats: tuple[CandidateConfig, ...]

    @property
    def spread(self) -> bool:
        """Where a candidate has replicas, so that a lost node does not take all of them."""
        return len({c.name for c in self.seats}) < len(self.seats)


def crews(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> list[Crew]:
    """Crews by size, the largest first: what needs several GPUs of a node comes before what breaks nodes up.

    Train numbers the workers of a node one after the other, so every candidate's first replica comes before anyone's
    second: then replicas sit on different nodes.
    """
    shapes: dict[Resources, list[CandidateConfig]] = {}
    for candidate in candidates:
        shapes.setdefault(profile.resources_of(candidate.name), []).append(candidate)
    by_size = sorted(shapes.items(), key=lambda shape: (-shape[0].gpus, -shape[0].cpus))
    return [Crew(resources, _interleaved(members, profile)) for resources, members in by_size]


def _interleaved(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> tuple[CandidateConfig, ...]:
    most = max(profile.workers_of(c.name) for c in candidates)
    return tuple(c for replica in range(most) for c in candidates if replica < profile.workers_of(c.name))


def endpoint_misfits(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> list[str]:
    """Where endpoints and a profile do not go together, in words."""
    problems = []
    for candidate in candidates:
        source, where = candidate.source, f"candidate {candidate.name}"
        if not isinstance(source, EndpointSource):
            continue
        workers, deadline_s = profile.workers_of(candidate.name), profile.leases.deadline_s
        if profile.resources_of(candidate.name).gpus:
            problems.append(f"{where} is an endpoint and is given a GPU: take it out of the profile's candidates")
        if workers > source.concurrency:
            problems.append(
                f"{where} has {workers} workers (replicas) that share a concurrency of {source.concurrency}: one is "
                "enough, since it waits for all at once"
            )
        if source.timeout_s >= deadline_s:
            problems.append(
                f"{where}: an answer may take {source.timeout_s:g} s (source.timeout_s), and its batch is given to "
                f"another worker after {deadline_s:g} (leases.deadline_s): lower the one or raise the other"
            )
    return problems


_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Seat:
    """A process and its place: nodes and GPUs count from 1, the head is node 1; node 0: there is no room."""

    who: str
    resources: Resources
    node: int
    gpus: tuple[int, ...] = ()


@dataclass
class Node:
    """A machine while seats are given away."""

    number: int
    kind: Nodes
    cpus: float
    gpus: list[float]
    seats: int = field(default=0)

    def take(self, wanted: Resources) -> tuple[int, ...] | None:
        """The GPUs given, or None where this node has no room."""
        chosen = self._gpus(wanted.gpus)
        if chosen is None or wanted.cpus > self.cpus + _CLOSE:
            return None
        self.cpus -= wanted.cpus
        for gpu in chosen:
            self.gpus[gpu] -= min(wanted.gpus, 1.0)
        self.seats += 1
        return tuple(gpu + 1 for gpu in chosen)

    def _gpus(self, wanted: float) -> list[int] | None:
        if wanted == 0:
            return []
        part = min(wanted, 1.0)
        fitting = [gpu for gpu, left in enumerate(self.gpus) if left >= part - _CLOSE]
        # Fractions fill a GPU up before they break the next one.
        fitting.sort(key=lambda gpu: self.gpus[gpu])
        count = max(1, round(wanted))
        return sorted(fitting[:count]) if len(fitting) >= count else None


def nodes_of(machines: Sequence[Nodes]) -> list[Node]:
    """The declared machines one by one, the first of them the head."""
    kinds = [kind for kind in machines for _ in range(kind.count)]
    return [Node(number, kind, kind.cpus, [1.0] * kind.gpus) for number, kind in enumerate(kinds, start=1)]


def seat_pool(pool: Sequence[Crew], nodes: Sequence[Node]) -> list[Seat]:
    """Every worker's seat, in the order of the crews' own.

    A crew with replicas goes round the nodes, others fill them up. Train then numbers the places node by node.
    """
    seats = []
    for crew in pool:
        places = sorted((_place(crew, nodes) for _ in crew.seats), key=lambda p: (p[0] == 0, p))
        seats += [Seat(who, crew.resources, node, gpus) for who, (node, gpus) in zip(_names(crew), places, strict=True)]
    return seats


def _place(crew: Crew, nodes: Sequence[Node]) -> tuple[int, tuple[int, ...]]:
    seat = _seat("", crew.resources, sorted(nodes, key=lambda n: n.seats) if crew.spread else nodes)
    return seat.node, seat.gpus


def _names(crew: Crew) -> list[str]:
    """A candidate's name, numbered where it has replicas."""
    names = [candidate.name for candidate in crew.seats]
    return [
        f"{name} ({names[: at + 1].count(name)} of {names.count(name)})" if names.count(name) > 1 else name
        for at, name in enumerate(names)
    ]


def seat_routers(profile: ClusterProfile, trials: int, nodes: Sequence[Node]) -> list[Seat]:
    """A router per concurrent trial, and room for the trial's own process anywhere."""
    seats = []
    for number in range(1, trials + 1):
        router = _seat(f"router {number}", profile.router, nodes)
        beside = _seat("trial", profile.trial, nodes)
        seats.append(router if beside.node else Seat(router.who, router.resources, 0))
    return seats


def _seat(who: str, wanted: Resources, nodes: Sequence[Node]) -> Seat:
    for node in nodes:
        gpus = node.take(wanted)
        if gpus is not None:
            return Seat(who, wanted, node.number, gpus)
    return Seat(who, wanted, 0)
