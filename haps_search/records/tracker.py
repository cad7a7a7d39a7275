"""Where a run's numbers go. Starting a tracker may fail and stops the run; logging may not.

One record per step, with all of the step's metrics. What a tracker already keeps it does not take twice, so
a resumed run logs its steps as it repeats them and only the missing ones arrive.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Status = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Record:
    """The metrics of one step (0 or more), and when they were taken: seconds since 1970."""

    step: int
    metrics: Mapping[str, float]
    time: float

    @classmethod
    def now(cls, step: int, metrics: Mapping[str, float]) -> Record:
        return cls(step, {name: float(value) for name, value in metrics.items()}, time.time())


class Tracker(Protocol):
    """Keeps records. Constructing one may raise TrackerError; its methods raise nothing of the backend's."""

    @property
    def last_step(self) -> int:
        """The highest step the backend keeps, -1 where it keeps none."""
        ...

    @property
    def missed(self) -> int:
        """Records the backend has not taken so far. They are tried again at every later call."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep a step's metrics. Steps rise; steps kept by an earlier process are passed over.

        Raises:
            ValueError: this process logged that step, or a later one, before.
        """
        ...

    def log_many(self, records: Sequence[Record]) -> None:
        """As `log`, for many steps at once, with the times they were taken at."""
        ...

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None:
        """Close the run; `reason` is why it failed. A run that is resumed afterwards is open again."""
        ...


def replay(records: Iterable[Record], tracker: Tracker) -> int:
    """Send what lies above the tracker's last step; returns how many records that were."""
    last = tracker.last_step
    missing = [record for record in records if record.step > last]
    tracker.log_many(missing)
    return len(missing)


class StepGate:
    """Which steps to take: those above what the backend keeps, each once."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._seen = -1

    @property
    def highest(self) -> int:
        """The highest step known, -1 for none."""
        return max(self._kept, self._seen)

    def admit(self, step: int) -> bool:
        """Whether the step is new.

        Raises:
            ValueError: negative, or not above the step this process logged last.
        """
        if step < 0 or step <= self._seen:
            raise ValueError(
                f"step {step} was logged after step {self._seen}: steps start at 0, rise, and each is "
                "logged once with all its metrics"
            )
        self._seen = step
        return step > self._kept
