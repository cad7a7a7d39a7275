"""SIGTERM in a driver: whatever runs saves the step it is at, and then everyone leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

GRACE_S = 60.0
"""How long a step may take to end and be saved."""
STATUS = 128 + signal.SIGTERM


class Leaving(Protocol):
    """A sweep's journal, or the hold on a run."""

    @property
    def leaving(self) -> bool:
        """Whether it was asked to leave."""
        ...

    def leave(self) -> None:
        """Ask whatever runs to save and leave."""
        ...


@contextmanager
def ready_to_leave(held: Leaving) -> Iterator[None]:
    """While the body runs, SIGTERM asks what runs to save and leave, so that the body ends by itself.

    A second one, or the end of the grace, ends the process with status 143. To be used after Ray was started, which
    takes the signal for itself. Outside the main thread signals are not to be had, and nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: Any) -> None:
        if held.leaving:
            raise SystemExit(STATUS)
        held.leave()
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def overdue(number: int, frame: Any) -> None:
        raise SystemExit(STATUS)

    handlers = ((signal.SIGTERM, asked), (signal.SIGALRM, overdue))
    before = [(number, signal.signal(number, what)) for number, what in handlers]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, what in before:
            signal.signal(number, what)
