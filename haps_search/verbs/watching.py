"""The trials of a sweep, looked at while they run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from haps_search.errors import PoolError
from haps_search.verbs.events import Frame, Report

TICK_S = 1.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


@contextmanager
def watching(report: Report, frame: Callable[[bool], Frame], also: Callable[[], None]) -> Iterator[None]:
    """Report a frame each second while the body runs, and the last one when it has ended; `also` is called each time.

    `frame` is asked whether it is the last. What cannot be read or sent for a moment is tried again at the next tick.
    Any other error, or one that is still there at the end, ends the watching, not the sweep; it is raised when the
    body is done.
    """
    watcher = _Watcher(report, frame, also)
    watcher.start()
    try:
        yield
    finally:
        watcher.stop()
    if watcher.problem is not None:
        raise watcher.problem


class _Watcher(threading.Thread):
    def __init__(self, report: Report, frame: Callable[[bool], Frame], also: Callable[[], None]) -> None:
        super().__init__(name="watching", daemon=True)
        self._report, self._frame, self._also = report, frame, also
        self._ended = threading.Event()
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            last = False
            while not last:
                last = self._ended.wait(TICK_S)
                frame = self._tried(lambda: self._frame(last), last)  # noqa: B023 - called at once
                if frame is not None:
                    self._report(frame)
                self._tried(self._also, last)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.problem = error

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _tried(self, call: Callable[[], T], last: bool) -> T | None:
        try:
            return call()
        except (PoolError, OSError) as error:
            if last:
                raise
            _log.warning("no news of the trials this time: %s", error)
            return None
