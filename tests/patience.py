"""Waiting for what other processes do: for as long as something moves, since how long that takes is the machine's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

STALLED_S = 900.0
"""Nothing has moved for so long."""
LOOK_S = 1.0
"""Progress is looked at so seldom, since a folder is walked for it on a machine that is slow as it is."""
LONGEST_S = 5400.0
"""Something moves, and what is waited for does not come of it."""


class Running(Protocol):
    """A process; None as long as it runs."""

    def poll(self) -> int | None: ...


def nothing() -> object:
    """No sign of progress is known."""
    return None


def wait_for(
    event: Callable[[], bool],
    otherwise: str | Callable[[], str],
    process: Running | None = None,
    progress: Callable[[], object] = nothing,
    every_s: float = 0.1,
) -> float:
    """Until the event is there; how many seconds it took. AssertionError, with what is said `otherwise`, once the
    process has ended without it or `progress` has stayed the same for `STALLED_S`.
    """
    patience = Patience(progress)
    while not event():
        code = process.poll() if process is not None else None
        if code is not None:
            if event():
                break
            raise AssertionError(f"{_said(otherwise)}\nthe process ended with {code}")
        patience.spend(otherwise)
        time.sleep(every_s)
    return patience.spent()


class Patience:
    """For loops of another kind, such as asyncio's."""

    def __init__(self, progress: Callable[[], object] = nothing) -> None:
        self._progress, self._last = progress, progress()
        self._began = self._moved = self._looked = time.monotonic()

    def spend(self, otherwise: str | Callable[[], str]) -> None:
        """AssertionError where it is at its end."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._look()
        still = time.monotonic() - self._moved
        assert still < STALLED_S, f"{_said(otherwise)}\nnothing has moved for {still:.0f} s"
        assert self.spent() < LONGEST_S, f"{_said(otherwise)}\nnot in {self.spent():.0f} s, though something moves"

    def _look(self) -> None:
        self._looked, now = time.monotonic(), self._progress()
        if now != self._last:
            self._last, self._moved = now, self._looked

    def spent(self) -> float:
        return time.monotonic() - self._began


def growth(*places: Path) -> Callable[[], object]:
    """Progress as files and folders show it: how many files there are, how large, and when the last one was written."""

    def now() -> tuple[int, int, int]:
        found = [stat for place in places for stat in _files(place)]
        return len(found), sum(size for size, _ in found), max((at for _, at in found), default=0)

    return now


def _said(otherwise: str | Callable[[], str]) -> str:
    return otherwise if isinstance(otherwise, str) else otherwise()


def _files(place: Path) -> Iterator[tuple[int, int]]:
    below = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    for path in (place, *below):
        with suppress(OSError):  # renamed or removed meanwhile
            stat = path.stat()
            yield stat.st_size, stat.st_mtime_ns
