"""One error tree. Every error can be pickled, so it means the same on both sides of a process.

Each says of what kind it is, where it is raised: it passes by itself, somebody has to mend something, or nobody knows.
What follows from a kind is decided in `faults.policy`; the kinds of other libraries' errors stand in `faults.kinds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self


class Kind(StrEnum):
    """What trying again is good for: TRANSIENT (the network, a store, room on a disk, memory) after a pause; UNKNOWN a
    few times; PERMANENT (what the user wrote, what is not there) not at all."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"


class HapsError(Exception):
    """The root: whatever haps_search raises on purpose. The message says what to do about it."""

    kind = Kind.PERMANENT

    def of_kind(self, kind: Kind) -> Self:
        """The same error, of another kind than its class has."""
        self.kind = kind
        return self


class ConfigError(HapsError):
    """A configuration that cannot run. Carries every problem found, each with its path in the file."""

    def __init__(self, problems: Sequence[str] | str, source: str = "") -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        head = f"{self.source}: " if self.source else ""
        if len(self.problems) == 1:
            return head + self.problems[0]
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        return f"{head}{len(self.problems)} problems\n{lines}"


class DataError(HapsError):
    """A malformed row of the user's data: the message names file, line and field."""


class CandidateError(HapsError):
    """A candidate that cannot be loaded or cannot take a request; the message names it and the way out."""


class EndpointError(CandidateError):
    """An endpoint that did not answer, with the HTTP status where it said one. The message is for whoever runs it: it
    has the address and the server's own words, which may hold a prompt."""

    status: int | None = None


class TooLong(CandidateError):
    """A prompt with the tokens that were asked for exceeds a candidate's positions."""


class CheckpointError(HapsError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


class TrackerError(HapsError):
    """A tracker that cannot start."""


class StaleUpdate(HapsError):
    """An update computed against another version of the router than the one it was sent to."""


class Diverged(HapsError):
    """Training left the finite numbers; the last good checkpoint is kept."""


class PoolError(HapsError):
    """The machines' failure, not the question's: a worker lost, a lease expired too often, a pool ended."""

    kind = Kind.UNKNOWN


class Unfinished(PoolError):
    """Work is left, and what was done is saved: the same again goes on from there."""

    kind = Kind.TRANSIENT
    status = 75
    """What a process ends with that ends by it."""
    asked = False
    """Somebody wanted it so, and nobody is to begin again by himself."""


class Interrupted(Unfinished):
    """A run was asked to leave: it has saved the step it was at, and goes on from there."""
