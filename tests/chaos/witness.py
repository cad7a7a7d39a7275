"""What the runs record, seen while it happens: a step that is recorded again was done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from haps_search.records.jsonl import JsonlFollower


@dataclass(frozen=True, slots=True)
class Sighting:
    """A step was recorded, at a time in seconds since 1970; `again`: it had been before."""

    time: float
    sweep: str
    trial: str
    step: int
    again: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, to whom, and when."""

    time: float
    kind: str
    target: str


@dataclass(frozen=True, slots=True)
class Toll:
    """What one kind of fault cost: seconds until the next step anywhere, or of the driver that had to
    be started again; and steps recorded again before the next fault. The seconds are None where nothing was left to
    record."""

    kind: str
    times: int
    median_s: float | None
    longest_s: float | None
    again: int


@dataclass
class Witness:
    """Call `look` often: what is recorded and cut off again between two looks is not seen."""

    sightings: list[Sighting] = field(default_factory=list)
    _followers: dict[Path, JsonlFollower] = field(default_factory=dict)
    _times: dict[tuple[str, str, int], float] = field(default_factory=dict)

    def look(self, sweep: Path) -> None:
        for path in sorted(sweep.glob("trials/*/metrics.jsonl")):
            for line in self._followers.setdefault(path, JsonlFollower(path)).new():
                if "metrics" in line:
                    self._see(path, int(line["step"]), float(line["time"]))

    def since(self, time: float) -> list[Sighting]:
        return [sighting for sighting in self.sightings if sighting.time > time]

    def _see(self, path: Path, step: int, time: float) -> None:
        """A file that was cut is read from its start, and an attempt takes over the lines of the one before: what is
        there as before is nothing new."""
        sweep, trial = path.parents[2].name, path.parent.name.partition(".")[0]
        before = self._times.get((sweep, trial, step))
        if time != before:
            self._times[sweep, trial, step] = time
            self.sightings.append(Sighting(time, sweep, trial, step, before is not None))


def tolls(faults: Sequence[Fault], sightings: Sequence[Sighting], resumes: Sequence[float] = ()) -> list[Toll]:
    """One row per kind, in the order in which the kinds first came. `resumes`: when drivers were started again."""
    ends = [fault.time for fault in faults[1:]] + [float("inf")]
    waits: dict[str, list[float | None]] = {}
    again: dict[str, int] = {}
    for fault, end in zip(faults, ends, strict=True):
        since = max([fault.time, *(time for time in resumes if fault.time < time <= end)])
        following = min((s.time for s in sightings if s.time > since), default=None)
        waits.setdefault(fault.kind, []).append(None if following is None else following - fault.time)
        repeated = sum(s.again for s in sightings if fault.time < s.time <= end)
        again[fault.kind] = again.get(fault.kind, 0) + repeated
    return [_toll(kind, found, again[kind]) for kind, found in waits.items()]


def _toll(kind: str, waits: Sequence[float | None], again: int) -> Toll:
    known = [wait for wait in waits if wait is not None]
    return Toll(kind, len(waits), median(known) if known else None, max(known, default=None), again)


def table(rows: Sequence[Toll]) -> str:
    """For people."""
    lines = [f"{'fault':<20} {'times':>5} {'median s':>9} {'max s':>7} {'steps again':>12}"]
    for row in rows:
        waits = [f"{value:.1f}" if value is not None else "-" for value in (row.median_s, row.longest_s)]
        lines.append(f"{row.kind:<20} {row.times:>5} {waits[0]:>9} {waits[1]:>7} {row.again:>12}")
    return "\n".join(lines)
