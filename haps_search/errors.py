"""One error tree. Every error can be pickled, so it means the same on both sides of a process.

Two kinds are told apart where they are raised: what the user can mend (`ConfigError`, `DataError`,
`CandidateError`, `CheckpointError`) and what the machine did (`PoolError`).
"""

from __future__ import annotations

from collections.abc import Sequence


class HapsError(Exception):
    """The root: whatever haps_search raises on purpose. The message says what to do about it."""


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


class CheckpointError(HapsError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


class TrackerError(HapsError):
    """A tracker that cannot start."""


class StaleUpdate(HapsError):
    """An update computed against another version of the router than the one it was sent to."""


class Diverged(HapsError):
    """Training left the finite numbers; the last good checkpoint is kept."""


class Interrupted(HapsError):
    """A run was asked to leave: it has saved the step it was at, and goes on from there."""


class PoolError(HapsError):
    """The machines' failure, not the question's: a worker lost, a lease expired too often, a pool ended."""
