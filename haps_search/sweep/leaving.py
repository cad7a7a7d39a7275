"""SIGTERM in a driver: the trials save the step they are at, and then everyone leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from haps_search.sweep.journal import Journal

GRACE_S = 60.0
"""How long trials may take to end their step and save it."""
STATUS = 128 + signal.SIGTERM


@contextmanager
def ready_to_leave(journal: Journal) -> Iterator[None]:
    """While the body runs, SIGTERM asks its trials to save and leave, so that the body ends by itself.

    A second one, or the end of the grace, ends the process with status 143. To be used in the main thread, and
    after Ray was started, which takes the signal for itself.
    """

    def asked(number: int, frame: Any) -> None:
        if journal.leaving:
            raise SystemExit(STATUS)
        journal.leave()
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
