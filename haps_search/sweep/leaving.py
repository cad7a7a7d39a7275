"""Leaving is one path, whoever asks: what runs saves the step it is at, within a grace, and then everyone goes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from haps_search.errors import Unfinished

LOOK_S = 0.5
GRACE_S, SLACK_S = 60.0, 30.0
"""How long a step may take to end and be saved where no profile says it; and then the driver's own last words."""
STATUS = 75
"""Work is left, and saved (EX_TEMPFAIL of sysexits.h): whoever started this may start it again."""
SIGTERM, CTRL_C, STOP, HOURS = "asked to leave (SIGTERM)", "Ctrl-C", "`haps stop`", "--max-hours is over"
MAX_COST = "--max-cost is reached"
_STATUS = {STOP: 0, CTRL_C: 128 + signal.SIGINT}
"""Where a person wanted it so: a shell takes the end by Ctrl-C for that."""
ASKED = "stop-asked"
"""A file of who asked for a stop by name, beside the lock."""
_VARIABLE = "HAPS_GRACE_S"


class Leaving(Protocol):
    """A sweep's journal, the hold on a run, or a lock."""

    @property
    def leaving(self) -> bool:
        """Whether it was asked to leave."""
        ...

    @property
    def why(self) -> str:
        """Who asked, in words; "" while nobody has."""
        ...

    def leave(self, why: str) -> None:
        """Ask whatever runs to save and leave."""
        ...


class Pause:
    """Nothing runs: whoever asks ends the waiting."""

    def __init__(self) -> None:
        self.why = ""

    @property
    def leaving(self) -> bool:
        return bool(self.why)

    def leave(self, why: str) -> None:
        self.why = self.why or why


def paused(seconds: float, folder: Path) -> str:
    """Wait so long; who wanted to leave meanwhile, "" where nobody did."""
    pause, until = Pause(), time.monotonic() + seconds
    with ready_to_leave(pause, folder):
        while not pause.leaving and time.monotonic() < until:
            time.sleep(min(max(until - time.monotonic(), 0.0), LOOK_S))
    return pause.why


@contextmanager
def ready_to_leave(held: Leaving, folder: Path, grace_s: float = GRACE_S) -> Iterator[Callable[[], None]]:
    """While the body runs, SIGTERM and Ctrl-C ask what runs to save and leave, so that the body ends by itself.

    A second one, or the end of the grace, ends the process; where what the body ends with stands still as well, it is
    over `SLACK_S` later. Yields what takes the signals back after Ray was started, which takes them for itself.
    `folder` is where `haps stop` leaves word. Outside the main thread there are no signals, and nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def asked(number: int, frame: Any) -> None:
        if held.leaving and number == signal.SIGINT:
            raise KeyboardInterrupt
        if held.leaving:
            raise SystemExit(STATUS)
        held.leave(CTRL_C if number == signal.SIGINT else STOP if (folder / ASKED).exists() else SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, grace_s + SLACK_S)

    handlers = ((signal.SIGTERM, asked), (signal.SIGINT, asked), (signal.SIGALRM, _Overdue()))

    def arm() -> None:
        for number, what in handlers:
            signal.signal(number, what)

    (folder / ASKED).unlink(missing_ok=True)  # of a driver that was gone before
    before = [(number, signal.getsignal(number)) for number, _ in handlers]
    arm()
    try:
        yield arm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, what in before:
            signal.signal(number, what)


def leave_within(seconds: float) -> None:
    """What the process waits for will not come: it ends then, where it has not before. Not later than it has been told
    already, and only where it is `ready_to_leave`. From any thread."""
    if isinstance(signal.getsignal(signal.SIGALRM), _Overdue) and not signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, seconds)


class _Overdue:
    """At the end of a grace: the process leaves in order, and the second time as it stands. What is done is saved."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.came:
            os._exit(STATUS)
        self.came = True
        signal.setitimer(signal.ITIMER_REAL, SLACK_S)
        sys.stderr.write("unfinished: something stands still; what is done is saved, and the same again goes on\n")
        raise SystemExit(STATUS)


def grace_of(profile_s: float) -> float:
    """The profile's grace, or what the scheduler gives where it says so in HAPS_GRACE_S."""
    given = os.environ.get(_VARIABLE, "")
    return float(given) if given.replace(".", "", 1).isdigit() else profile_s


def unfinished(why: str, left: str) -> Unfinished:
    """The error that says who asked and what is left; the process ends with its status."""
    error = Unfinished(f"{why}; {left}")
    error.status, error.asked = _STATUS.get(why, STATUS), True
    return error
