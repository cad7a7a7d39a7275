"""What broker, workers and driver hand one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from haps_search.engines.cluster.wire import RequestParcel, ResponseParcel
from haps_search.errors import CandidateError, HapsError


@dataclass(frozen=True, slots=True)
class Work:
    """A lease as the worker sees it: parcels to answer, in order."""

    lease: int
    parcels: tuple[RequestParcel, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of a parcel that has no answer. `final`: trying again cannot help."""

    error: HapsError
    final: bool


@dataclass(frozen=True, slots=True)
class Done:
    """A lease's outcome, one entry per parcel."""

    lease: int
    outcomes: tuple[ResponseParcel | Failure, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that did not load, and the node where it did not. Made by a worker, answered by the driver."""

    candidate: str
    node: str
    error: CandidateError


@dataclass(frozen=True, slots=True)
class Tended:
    """What the broker tells the driver: refusals not told before, per candidate that is awaited and has no worker the
    seconds until the pool gives it up, per candidate that is loaded for the first time the seconds since that began,
    and why the pool has ended, None while it has not."""

    refusals: tuple[Refusal, ...]
    missing: Mapping[str, float]
    loading: Mapping[str, float]
    ended: str | None
