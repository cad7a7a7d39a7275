"""The sweep's own journal: one line per event, on disk before anything relies on it. It is the truth."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from haps_search.config.anchors import unplaced
from haps_search.config.complaints import show
from haps_search.config.load import dump, fingerprint, parse_study
from haps_search.config.schema import suggest
from haps_search.config.stored import as_stored, before_draws, before_halves
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError, DataError, HapsError, PoolError
from haps_search.records.jsonl import LineFollower
from haps_search.records.room import room_on
from haps_search.sweep.events import (
    FORMAT,
    Event,
    Fold,
    SweepEnded,
    SweepStarted,
    TrialRecord,
    TrialSuggested,
    decode,
    encode,
)
from haps_search.sweep.hold import Hold, fetched
from haps_search.sweep.inputs import put_inputs
from haps_search.sweep.layout import JOURNAL
from haps_search.sweep.prior import Known, Prior
from haps_search.version import __version__

FILE = JOURNAL
STEPS = "experiment.run.steps"
MAY_DIFFER = (
    "description",
    "expected",
    "sweep.trials",
    "sweep.concurrency",
    "sweep.max_hours",
    "sweep.opponents",
    "tracking",
    "experiment.engine",
)
"""What a resumed sweep may change; `sweep.trials`, `sweep.seeds` and `arms` may only grow."""


class Journal:
    """An append-only file of events in a sweep's folder. Readers need no lock; writers use `open_sweep`.

    It is read once and then followed: a look costs what has happened since the last one.
    """

    def __init__(self, folder: Path, hold: Hold | None = None) -> None:
        self.folder = folder
        self._hold = hold
        self._turn = threading.Lock()
        self._begin_reading()

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def append(self, event: Event) -> None:
        """Write one event and wait until it is on disk; threads take turns.

        What a crash left of a last line is cut first.

        Raises:
            OSError: the disk is gone; the journal is as it was before.
            PoolError: the disk is full, and the journal is as it was before; or the object store of the sweep did not
                take it, or has another driver now.
        """
        line = f"{encode(event)}\n".encode()
        new = not self.file.exists()
        with room_on(self.folder):
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                end = _cut(descriptor)
                _append(descriptor, line, end)
                self._send(descriptor, end)
            finally:
                os.close(descriptor)
        if new:
            _sync_folder(self.folder)

    def _send(self, descriptor: int, end: int) -> None:
        """To the object store of the sweep, before the next one's turn. What it did not take is here no more either."""
        if self._hold is not None:
            try:
                self._hold.appended(self.file, end)
            except PoolError:
                os.ftruncate(descriptor, end)
                raise

    def events(self) -> Iterator[Event]:
        """All events, oldest first, read anew; an unfinished last line is not one.

        Raises:
            DataError: a damaged line, or one of a newer version.
        """
        version = 1
        for event in LineFollower(self.file).read(self._decoded):
            version = event.format if isinstance(event, SweepStarted) else version
            yield event if version >= FORMAT else _of_format(version, event)

    def trials(self) -> list[TrialRecord]:
        """What is known of every trial, by number.

        Raises:
            DataError: a damaged journal.
        """
        with self._turn:
            return self._followed().trials()

    def started(self) -> SweepStarted | None:
        """The configuration in force, or None where no sweep was begun."""
        with self._turn:
            return self._followed().started

    def begun(self) -> float:
        """When the first driver took it, in seconds since the epoch; 0 where none has."""
        with self._turn:
            begun = self._followed().begun
        return 0.0 if begun is None else begun.time

    def ended(self) -> SweepEnded | None:
        """How the sweep ended, or None while it goes on or was taken up again."""
        with self._turn:
            return self._followed().ended

    def last_end(self) -> SweepEnded | None:
        """How it ended, also where a driver took it up since for other work than its search, as a confirmation."""
        with self._turn:
            return self._followed().last_end

    def _followed(self) -> Fold:
        """With what has happened since the last look; all of it again where the file is not the one it was."""
        restarts = self._follower.restarts
        try:
            events = self._follower.read(self._decoded)
            if self._follower.restarts > restarts:
                self._fold, self._version = Fold(), 1
            for event in events:
                self._version = event.format if isinstance(event, SweepStarted) else self._version
                self._fold.take(event if self._version >= FORMAT else _of_format(self._version, event))
        except ValueError as error:
            self._begin_reading()  # part of it was taken
            raise DataError(f"{self.file}: {error}") from error
        except DataError:
            self._begin_reading()
            raise
        return self._fold

    def _begin_reading(self) -> None:
        self._follower, self._fold, self._version = LineFollower(self.file), Fold(), 1

    def _decoded(self, line: bytes, number: int) -> Event:
        try:
            return decode(line.decode())
        except ValueError as error:
            raise DataError(f"{self.file}, line {number}: {error}") from error

    def study(self) -> Study:
        """The study in force.

        Raises:
            ConfigError: no sweep was begun here, or this version refuses its configuration.
        """
        started = self.started()
        if started is None:
            raise ConfigError("no sweep was begun in this folder", str(self.folder))
        return parse_study(as_begun(started.study), str(self.file))

    def like(self) -> str:
        """The sweep with whose results this one was begun, "" where with none."""
        return next((e.like for e in self.events() if isinstance(e, SweepStarted)), "")

    def known(self) -> tuple[Known, ...]:
        """Results of another sweep that this one was begun with."""
        first = next((e for e in self.events() if isinstance(e, SweepStarted)), None)
        return tuple(Known(**fields) for fields in first.known) if first else ()

    @property
    def leaving(self) -> bool:
        """Whether this driver was asked to leave."""
        return self._hold is not None and self._hold.leaving

    @property
    def why(self) -> str:
        """Why it leaves, "" while it does not."""
        return self._hold.why if self._hold is not None else ""

    def leave(self, why: str) -> None:
        """Ask the trials to save and leave; none is begun after."""
        if self._hold is not None:
            self._hold.leave(why)

    def close(self) -> None:
        """Free the sweep for another driver."""
        if self._hold is not None:
            self._hold.release()


def open_sweep(folder: Path, study: Study, resume: bool, prior: Prior | None = None, extend: bool = False) -> Journal:
    """Begin or take up the sweep of a folder, as its only driver.

    `resume` demands that it was begun; without it an existing sweep of the same configuration is taken up. A new one
    begins with what `prior` knows; `extend` lets `run.steps` be raised.

    Raises:
        ConfigError: another driver is at it, the configuration differs, or there is nothing to resume.
    """
    if resume and Journal(fetched(folder)).started() is None:
        known = sorted(f.parent.name for f in folder.parent.glob(f"*/{FILE}"))
        raise ConfigError(f"no such sweep; {suggest(folder.name, known, 'there are')}", folder.name)
    journal = Journal(folder, Hold(folder))
    try:
        _take_up(journal, study, prior, extend)
    except (HapsError, OSError):
        journal.close()
        raise
    return journal


def _of_format(version: int, event: Event) -> Event:
    """An event from before rewards said how they compare (1), validation questions were parted (2), or drawn (3), as it
    was meant."""
    if isinstance(event, SweepStarted):
        return replace(event, study=_as_meant(version, event.study))
    if isinstance(event, TrialSuggested):
        return replace(event, parameters=_as_meant(version, event.parameters))
    return event


def _as_meant(version: int, values: Mapping[str, Any]) -> dict[str, Any]:
    found = as_stored(dict(values)) if version < 2 else dict(values)
    return before_draws(before_halves(found) if version < 3 else found)


def _take_up(journal: Journal, study: Study, prior: Prior | None, extend: bool) -> None:
    values, begun = dump(study), journal.started() is not None
    problems = differences(unplaced(dump(journal.study())), unplaced(values), extend) if begun else []
    if problems:
        way_out = "give the sweep another --name, or resume it as it was begun"
        raise ConfigError([*problems, way_out], f"sweep {journal.folder.name} exists and differs")
    put_inputs(journal.folder)
    like, known = (prior.sweep, [asdict(each) for each in prior.known]) if prior is not None else ("", [])
    if begun and like not in ("", journal.like()):
        raise ConfigError(f"--like {like}: it was begun {journal.like() or 'without'}; give the new one another --name")
    if begun:
        like, known = "", []
    journal.append(SweepStarted(values, fingerprint(study), __version__, time.time(), like=like, known=known))


def as_begun(study: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored study as it was meant: where it lacks `sampler.stopped`, stopped trials were told as complete."""
    sampler = study["sweep"]["sampler"]
    if sampler["type"] != "tpe" or "stopped" in sampler:
        return study
    return {**study, "sweep": {**study["sweep"], "sampler": {**sampler, "stopped": "complete"}}}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], extend: bool = False) -> list[str]:
    """What keeps a sweep from going on under another configuration: path, old and new value.

    `extend` lets `run.steps` be raised.
    """
    problems = []
    for path, old, new in _differing(before, now, ""):
        if path == "sweep.trials" and isinstance(old, int) and isinstance(new, int) and new < old:
            problems.append(f"{path}: begun with {old}, now {new}; it may be raised, not lowered")
        elif path == "sweep.seeds" and isinstance(old, list) and isinstance(new, list):
            if not set(old) <= set(new):
                problems.append(f"{path}: begun with {old}, now {new}; seeds may be added, not taken away")
        elif (path.startswith("arms.") and old is None) or (path == STEPS and extend and new > old):
            continue
        elif not any(path == free or path.startswith(f"{free}.") for free in MAY_DIFFER):
            problems.append(f"{path}: begun with {show(old)}, now {show(new)}")
    return problems


def _differing(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    prefix = f"{path}." if path else ""
    # An arm is compared whole: what is put into one that has run would give its name to two settings.
    inner = not path.startswith("arms.")
    if inner and isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _differing(before.get(key), now.get(key), f"{prefix}{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and path != "sweep.seeds":
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differing(old, new, f"{prefix}{index}")
    elif before != now:
        yield path, before, now


def _cut(descriptor: int) -> int:
    """Cut an unfinished last line off; returns the length that remains."""
    end = os.fstat(descriptor).st_size
    if end == 0 or os.pread(descriptor, 1, end - 1) == b"\n":
        return end
    kept = os.pread(descriptor, end, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, kept)
    return kept


def _append(descriptor: int, line: bytes, end: int) -> None:
    offset = end
    try:
        while line:
            written = os.pwrite(descriptor, line, offset)
            line, offset = line[written:], offset + written
        os.fsync(descriptor)  # where NFS says that there is no room
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
