"""Events on a terminal: bars and a live table where it can move, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from haps_search.sweep.progress import TrialView
from haps_search.verbs.events import Counted, Event, Frame, Said, Wrote

PLAIN_EVERY_S = 15.0


class Terminal:
    """Shows the events of one verb; use it as a context, so that nothing moves on when the verb has ended.

    Frames come from the thread that watches the trials.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or wide_console()
        self._lock = threading.RLock()
        self._moving: Live | Progress | None = None
        self._rates: dict[str, _Rate] = {}
        self._shown, self._shown_at = "", float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rest()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Said(text):
                    self.say(text)
                case Wrote(text):
                    typer.echo(text, nl=False)
                case Counted(label, done, total):
                    self._count(label, done, total)
                case Frame():
                    self._frame(event)

    def say(self, line: str) -> None:
        """A line as it is: no markup, no colours of numbers, no breaks."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def show(self, table: Table) -> None:
        self.console.print(table)

    def _rest(self) -> None:
        with self._lock:
            if self._moving is not None:
                self._moving.stop()
            self._moving = None

    def _count(self, label: str, done: int, total: int) -> None:
        rate = self._rates.setdefault(label, _Rate(done))
        if self.console.is_terminal:
            self._bar(label, done, total)
        elif done > rate.first and (done >= total or self._due()):
            # At the rate since the start: what an earlier process did says nothing of this one's speed.
            self.say(f"{label} {done}/{total}, {clock(rate.left(done, total))} left")
            self._shown_at = time.monotonic()

    def _bar(self, label: str, done: int, total: int) -> None:
        if not isinstance(self._moving, Progress):
            self._rest()
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._moving = Progress(*columns, console=self.console)
            self._moving.start()
        bars = self._moving
        found = next((task.id for task in bars.tasks if task.description == label), None)
        bar = bars.add_task(label, total=total, completed=done) if found is None else found
        bars.update(bar, completed=done)
        if done >= total:
            self._rest()

    def _frame(self, frame: Frame) -> None:
        left = self._rates.setdefault("", _Rate(frame.done)).left(frame.done, 1.0)
        if self.console.is_terminal:
            if not isinstance(self._moving, Live):
                self._rest()
                self._moving = Live(console=self.console, refresh_per_second=2, transient=True)
                self._moving.start()
            self._moving.update(_picture(frame, left))
        elif frame.last or self._due():
            line = plain_line(frame.trials, frame.done, left)
            if line != self._shown:
                self.say(line)
            self._shown, self._shown_at = line, time.monotonic()
        if frame.last:
            self._rates.pop("")
            self._rest()

    def _due(self) -> bool:
        return time.monotonic() - self._shown_at >= PLAIN_EVERY_S


class _Rate:
    """How fast something goes since it was first seen; a resumed job starts in the middle."""

    def __init__(self, first: float) -> None:
        self.first, self._began = first, time.monotonic()

    def left(self, done: float, total: float) -> float | None:
        """Seconds, None while nothing has come."""
        return seconds_left(done - self.first, total - done, time.monotonic() - self._began)


def seconds_left(gained: float, missing: float, passed: float) -> float | None:
    """At the rate of what was gained in the time that passed."""
    return passed * missing / gained if gained > 0 else None


def _picture(frame: Frame, left: float | None) -> Group:
    bar = ProgressBar(total=1.0, completed=frame.done, width=40)
    return Group(trials_table(frame.trials), bar, Text(f" {frame.done:.0%} done, {clock(left)} left"))


def wide_console() -> Console:
    """The terminal; a file or pipe gets lines of 140 characters instead of rich's 80."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def trials_table(views: Sequence[TrialView]) -> Table:
    """One line per trial."""
    shown = columns(("trial", "state"), ("step", "reward", "validation", "entropy"), ("",))
    for v in views:
        name = f"{v.number:03d} {v.label}".strip()
        steps = f"{v.step}/{v.steps}"
        note = v.error or v.alarm or v.doing
        shown.add_row(name, v.state, steps, number(v.reward), number(v.validation), number(v.entropy), Text(note))
    return shown


def columns(left: Sequence[str], right: Sequence[str] = (), last: Sequence[str] = ()) -> Table:
    """A table without lines: columns on the left, numbers on the right, columns on the left again."""
    shown = Table(box=None, pad_edge=False)
    for names, justify in ((left, "left"), (right, "right"), (last, "left")):
        for name in names:
            shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    return shown


def plain_line(views: Sequence[TrialView], done: float, left: float | None) -> str:
    """All that is going on in one line."""
    running = [
        f"{v.number:03d} {v.doing}"
        if v.doing
        else f"{v.number:03d} {v.step}/{v.steps} reward {number(v.reward)} validation {number(v.validation)} "
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
