"""What a verb tells while it works; a terminal, a notebook or nobody shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from haps_search.sweep.progress import TrialView


@dataclass(frozen=True, slots=True)
class Said:
    """A line for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Counted:
    """How far a long job is: `done` of `total`, what an earlier process did included."""

    label: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Frame:
    """How a sweep stands: its trials, and the fraction of all planned steps that is done. The `last` one of a stretch
    of work comes when that has ended."""

    trials: tuple[TrialView, ...]
    done: float
    last: bool = False


@dataclass(frozen=True, slots=True)
class Wrote:
    """What a job on a cluster printed, as it came: any part of a line, or many lines."""

    text: str


Event = Said | Counted | Frame | Wrote
Report = Callable[[Event], None]
"""Called from the verb's own thread and, for frames, from the one that watches the trials."""


def silent(event: Event) -> None:
    """Nobody is told."""


def saying(report: Report) -> Callable[[str], None]:
    """What takes lines, for code that knows no events."""
    return lambda line: report(Said(line))
