"""What trials, broker, workers and driver hand one another: names, sizes and references, never a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from haps_search.errors import CandidateError, HapsError

BROKER = "broker"
"""The broker's name in the session's namespace."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One piece of work: so many rows that a candidate is to take together. Made by a trial, leased to a worker.

    `tokens` is what a padded batch of its rows takes (rows times the longest), `bytes` what its adapters and gradients
    do. `payload` refers to an object that the trial owns; nobody on the way opens it. `prefers` names the worker that
    does it at least cost, "" where none does; `lost` counts how often its request or its answer was lost before.
    """

    id: str
    trial: str
    candidate: str
    kind: str
    rows: int
    tokens: int
    bytes: int
    payload: Any
    prefers: str = ""
    lost: int = 0

    @property
    def length(self) -> int:
        """Tokens of its longest row."""
        return -(-self.tokens // max(self.rows, 1))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lease may have; a single ticket may have more."""

    rows: float
    tokens: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Work:
    """A lease as the worker sees it: payloads of one kind, in order."""

    lease: int
    kind: str
    payloads: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """A ticket's answer: a reference to an object that the worker owns. `known`: prompts that the worker still had."""

    payload: Any
    known: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of a ticket that has no answer. `final`: trying again cannot help."""

    error: HapsError
    final: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The request was no more to be had: its owner has to put it again."""

    reason: str


Result = Answered | Failure | Lost


@dataclass(frozen=True, slots=True)
class Done:
    """A lease's results, one per payload."""

    lease: int
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a ticket and whose answer it is; `number` counts a trial's outcomes from 1. Read by the trial."""

    number: int
    ticket: str
    worker: str
    result: Result


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that did not load, and the node where it did not; unless it is `final`, its worker tries it again
    there. Made by a worker, answered by the driver."""

    candidate: str
    node: str
    error: CandidateError
    final: bool = True


@dataclass(frozen=True, slots=True)
class Hung:
    """A worker's process that says nothing any more, and has to be ended to be replaced."""

    worker: str
    pid: int
    node: str


@dataclass(frozen=True, slots=True)
class Tended:
    """What the broker tells the driver: refusals not told before, per candidate that is awaited and has no worker the
    seconds until the pool gives it up, per candidate that is loaded for the first time the seconds since that began,
    and why the pool has ended, None while it has not."""

    refusals: tuple[Refusal, ...]
    missing: Mapping[str, float]
    loading: Mapping[str, float]
    ended: str | None
    hung: tuple[Hung, ...] = ()
    """Processes to be ended."""
