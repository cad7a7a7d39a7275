"""One driver per sweep where an object store keeps it: a claim that its holder renews, for want of locks.

Whoever takes or renews it puts it in the place of the one it has read, and the store refuses that where another was
put meanwhile (`records.conditional`). A holder that died is one whose claim did not change while somebody watched it
for `LAPSE_S`: no clocks are compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from haps_search.errors import ConfigError, PoolError
from haps_search.records.conditional import Seen, slot
from haps_search.records.objects import Objects

BEAT_S, LAPSE_S, POLL_S = 3.0, 15.0, 1.0
ASK_S = 2.0
READS, PAUSE_S = 4, 0.5
LENGTH = 512
"""Of the object in bytes, with blanks: pyarrow, by which trials read it, asks for the length first, and a put may come
between."""
FILE = "claim.json"


class Claim:
    """Held from its construction to `release`, or until `LAPSE_S` after the process died."""

    def __init__(self, objects: Objects, sweep: str) -> None:
        """Take it; waits `LAPSE_S` where a driver left it without a word.

        Raises:
            ConfigError: another driver renews it, and the message says which.
            PoolError: the store does not answer.
        """
        self._uri, self._slot = objects.uri_of(f"{sweep}/{FILE}"), slot(objects, f"{sweep}/{FILE}")
        found = self._once_free(sweep)
        self._held: dict[str, Any] = {
            "owner": uuid.uuid4().hex,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "leaving": False,
            "beat": 0,
        }
        self._turn, self._wake, self._ended = threading.Lock(), threading.Event(), False
        self._lost = ""
        self._renewed = time.monotonic()
        taken = self._slot.take(found, _written(self._held))
        self._seen, now = (taken, self._held) if taken is not None else self._read()
        if not self._mine(now):
            raise _refusal(sweep, now)
        self._renewer = threading.Thread(target=self._renew, name="claim", daemon=True)
        self._renewer.start()

    def leave(self) -> None:
        """Tell the trials, which read it, that the holder leaves. Also from a signal's handler: another thread puts."""
        self._held["leaving"] = True
        self._wake.set()

    def check(self) -> None:
        """Raises PoolError where another driver has taken the sweep, or the claim could not be renewed in time."""
        if not self._lost and time.monotonic() - self._renewed > LAPSE_S:
            self._beat()
        if self._lost:
            raise PoolError(f"{self._uri}: {self._lost}; what is done since is not kept")

    def release(self) -> None:
        """Let the next driver in at once; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._wake.set()
        self._renewer.join()
        if not self._lost:
            self._put({})  # an object can be replaced on a condition, and not be deleted on one

    def _renew(self) -> None:
        while not self._ended and not self._lost:
            self._wake.wait(BEAT_S)
            self._wake.clear()
            if not self._ended:
                try:
                    self._beat()
                except PoolError:
                    continue  # `check` says so when it matters

    def _beat(self) -> None:
        with self._turn:
            began = time.monotonic()
            self._held["beat"] += 1
            if self._put(self._held):
                self._renewed = began
            else:
                self._lost = f"the sweep was taken over by {_described(self._read()[1])}"

    def _put(self, held: dict[str, Any]) -> bool:
        """False where the claim is another's. One of ours may have got through although its answer was lost."""
        put = self._slot.replace(self._seen, _written(held))
        if put is None:
            seen, now = self._read()
            put = self._slot.replace(seen, _written(held)) if self._mine(now) else None
        self._seen = put or self._seen
        return put is not None

    def _once_free(self, sweep: str) -> Seen:
        """What is there instead of a claim, or the one whose holder died."""
        seen, first = self._read()
        now, until = first, time.monotonic() + LAPSE_S
        while now and time.monotonic() < until:
            time.sleep(POLL_S)
            seen, now = self._read()
            if now and now != first:
                raise _refusal(sweep, now)
        return seen

    def _mine(self, held: dict[str, Any]) -> bool:
        return held.get("owner") == self._held["owner"]

    def _read(self) -> tuple[Seen, dict[str, Any]]:
        seen = self._slot.read()
        try:
            return seen, _parsed(seen.data)
        except ValueError as error:
            raise _unreadable(self._uri) from error


def listener(objects: Objects, sweep: str) -> Callable[[], bool]:
    """For a trial: whether the driver that is there now was replaced, ended, or asks its trials to leave.

    The store is asked every `ASK_S` at most. Raises PoolError.
    """
    owner = _read(objects, f"{sweep}/{FILE}").get("owner")
    asked, answer = time.monotonic() - ASK_S, False

    def leaves() -> bool:
        nonlocal asked, answer
        if time.monotonic() - asked >= ASK_S:
            asked = time.monotonic()
            held = _read(objects, f"{sweep}/{FILE}")
            answer = held.get("owner") != owner or owner is None or held["leaving"] is True
        return answer

    return leaves


def _read(objects: Objects, name: str) -> dict[str, Any]:
    """As a trial reads it, by pyarrow. A read that met a put halfway is repeated."""
    for _ in range(READS):
        try:
            return _parsed(objects.get(name) or b"")
        except ValueError:
            time.sleep(PAUSE_S)
    raise _unreadable(objects.uri_of(name))


def _unreadable(uri: str) -> PoolError:
    return PoolError(f"{uri}: no claim can be read there; delete it if no driver is at the sweep")


def _parsed(data: bytes) -> dict[str, Any]:
    """Empty where nobody holds it."""
    return dict(json.loads(data or b"{}"))


def _written(held: dict[str, Any]) -> bytes:
    return json.dumps(held).encode().ljust(LENGTH)


def _refusal(sweep: str, held: dict[str, Any]) -> ConfigError:
    return ConfigError(f"is being driven by {_described(held)}: wait for it, end it, or choose another name", sweep)


def _described(held: dict[str, Any]) -> str:
    return f"process {held['pid']} on {held['host']} since {held['since']}" if held else "one that has ended since"
