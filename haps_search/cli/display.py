"""The live display of a sweep: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from haps_search.errors import PoolError
from haps_search.sweep.progress import TrialView

PLAIN_EVERY_S = 15.0
TICK_S = 1.0

_log = logging.getLogger(__name__)
T = TypeVar("T")

Frame = tuple[Sequence[TrialView], float]
"""The trials, and the fraction of all steps that is done."""


@contextmanager
def watching(console: Console, frame: Callable[[], Frame], also: Callable[[], None]) -> Iterator[None]:
    """Show frames while the body runs; `also` is called at each tick, and once more at the end.

    What cannot be read or sent for a moment is tried again at the next tick. Any other error, or one that is still
    there at the end, ends the display, not the sweep; it is raised when the body is done.
    """
    watcher = _Watcher(console, frame, also)
    watcher.start()
    try:
        yield
    finally:
        watcher.stop()
    if watcher.problem is not None:
        raise watcher.problem


class _Watcher(threading.Thread):
    def __init__(self, console: Console, frame: Callable[[], Frame], also: Callable[[], None]) -> None:
        super().__init__(name="display", daemon=True)
        self._console, self._frame, self._also = console, frame, also
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._first: float | None = None
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            if self._console.is_terminal:
                self._live()
            else:
                self._plain()
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.problem = error

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _live(self) -> None:
        with Live(console=self._console, refresh_per_second=2, transient=True) as live:
            while True:
                last = self._ended.wait(TICK_S)
                frame = self._tried(self._frame, last)
                if frame is not None:
                    live.update(self._picture(frame))
                self._tried(self._also, last)
                if last:
                    return

    def _plain(self) -> None:
        shown, at = "", 0.0
        while True:
            last = self._ended.wait(TICK_S)
            self._tried(self._also, last)
            now = time.monotonic()
            frame = self._tried(self._frame, last) if last or now - at >= PLAIN_EVERY_S else None
            if frame is not None:
                views, done = frame
                line = plain_line(views, done, self._left(done))
                if line != shown:
                    self._console.print(line, highlight=False, soft_wrap=True)
                shown, at = line, now
            if last:
                return

    def _tried(self, call: Callable[[], T], last: bool) -> T | None:
        try:
            return call()
        except (PoolError, OSError) as error:
            if last:
                raise
            _log.warning("the display has no news this time: %s", error)
            return None

    def _picture(self, frame: Frame) -> Group:
        views, done = frame
        bar = ProgressBar(total=1.0, completed=done, width=40)
        return Group(table(views), bar, Text(f" {done:.0%} done, {clock(self._left(done))} left"))

    def _left(self, done: float) -> float | None:
        """Seconds, from the rate since this display began: a resumed sweep starts in the middle."""
        if self._first is None:
            self._first = done
        gained, passed = done - self._first, time.monotonic() - self._began
        return passed * (1 - done) / gained if gained > 0.01 else None


def wide_console() -> Console:
    """The terminal; a file or pipe gets lines of 140 characters instead of rich's 80."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def table(views: Sequence[TrialView]) -> Table:
    """One line per trial."""
    shown = Table(box=None, pad_edge=False)
    for name in ("trial", "state", "step", "reward", "validation", "entropy", ""):
        shown.add_column(name, justify="left" if name in ("trial", "state", "") else "right")
    for v in views:
        name = f"{v.number:03d} {v.label}".strip()
        steps = f"{v.step}/{v.steps}"
        note = v.error or v.alarm
        shown.add_row(name, v.state, steps, number(v.reward), number(v.validation), number(v.entropy), Text(note))
    return shown


def plain_line(views: Sequence[TrialView], done: float, left: float | None) -> str:
    """All that is going on in one line."""
    running = [
        f"{v.number:03d} {v.step}/{v.steps} reward {number(v.reward)} validation {number(v.validation)} "
        f"entropy {number(v.entropy)}{' ! ' + v.alarm if v.alarm else ''}"
        for v in views
        if v.state == "running"
    ]
    ended = sum(v.state in ("finished", "stopped", "failed") for v in views)
    return " | ".join([f"{done:.0%} done, {clock(left)} left, {ended} trials ended", *running])


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
