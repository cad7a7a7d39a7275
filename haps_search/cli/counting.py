"""How far a long job is: a bar on a terminal, plain lines with a time estimate elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from haps_search.cli.display import PLAIN_EVERY_S, clock

Advance = Callable[[int], None]


@contextmanager
def counting(console: Console, label: str, done: int, total: int) -> Iterator[Advance]:
    """Shows `done` of `total` and what each call of the yielded function adds."""
    if not console.is_terminal:
        yield _Lines(console, label, done, total).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


class _Lines:
    """A line after the first call, then at most one in `PLAIN_EVERY_S`, and one at the end."""

    def __init__(self, console: Console, label: str, done: int, total: int) -> None:
        self._console, self._label, self._first, self._done, self._total = console, label, done, done, total
        self._began, self._shown = time.monotonic(), float("-inf")

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if self._done >= self._total or now - self._shown >= PLAIN_EVERY_S:
            self._shown = now
            left = seconds_left(self._done - self._first, self._total - self._done, now - self._began)
            line = f"{self._label} {self._done}/{self._total}, {clock(left)} left"
            self._console.print(line, highlight=False, soft_wrap=True)


def seconds_left(gained: int, missing: int, passed: float) -> float | None:
    """At the rate since the start: what an earlier process did says nothing of this one's speed."""
    return passed * missing / gained if gained else None
