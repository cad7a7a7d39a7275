"""The workers of a pool, grouped by what they ask for: a Train run gives all its workers the same resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile, Resources


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
