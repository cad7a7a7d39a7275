"""One driver per sweep where an object store keeps it: a claim that its holder renews, for want of locks.

Fischer's mutual exclusion (Lamport, "A fast mutual exclusion algorithm", ACM TOCS 5:1, 1987): wait until nobody holds
it, write your own name, wait longer than any write may take, and hold it if the name still stands. It is right as long
as a put takes less than `SETTLE_S`; a put that is late is found at the next renewal, and its loser leaves. A holder
that died is one whose claim did not change while somebody watched it for `LAPSE_S`: no clocks are compared.
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
from haps_search.records.objects import Objects

BEAT_S, SETTLE_S, LAPSE_S, POLL_S = 3.0, 2.0, 15.0, 1.0
ASK_S = 2.0
READS = 4
LENGTH = 512
"""Of the object in bytes, with blanks: pyarrow asks for the length first, and a put may come between."""
FILE = "claim.json"


class Claim:
    """Held from its construction to `release`, or until `LAPSE_S` after the process died."""

    def __init__(self, objects: Objects, sweep: str) -> None:
        """Take it; waits `LAPSE_S` where a driver left it without a word.

        Raises:
            ConfigError: another driver renews it, and the message says which.
            PoolError: the store does not answer.
        """
        self._objects, self._name = objects, f"{sweep}/{FILE}"
        self._wait_until_free(sweep)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._held: dict[str, Any] = {
            "owner": uuid.uuid4().hex,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": since,
            "leaving": False,
            "beat": 0,
        }
        self._turn, self._wake, self._ended = threading.Lock(), threading.Event(), False
        self._lost = ""
        self._put()
        time.sleep(SETTLE_S)
        now = _read(objects, self._name)
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
            raise PoolError(f"{self._objects.uri_of(self._name)}: {self._lost}; what is done since is not kept")

    def release(self) -> None:
        """Let the next driver in at once; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._wake.set()
        self._renewer.join()
        if self._mine(_read(self._objects, self._name)):
            self._objects.delete(self._name)

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
            now = _read(self._objects, self._name)
            if self._mine(now):
                self._put()
            else:
                self._lost = f"the sweep was taken over by {_described(now)}"

    def _put(self) -> None:
        began = time.monotonic()
        self._held["beat"] += 1
        self._objects.put(self._name, json.dumps(self._held).encode().ljust(LENGTH))
        self._renewed = began

    def _mine(self, held: dict[str, Any]) -> bool:
        return held.get("owner") == self._held["owner"]

    def _wait_until_free(self, sweep: str) -> None:
        first = now = _read(self._objects, self._name)
        until = time.monotonic() + LAPSE_S
        while now and time.monotonic() < until:
            time.sleep(POLL_S)
            now = _read(self._objects, self._name)
            if now and now != first:
                raise _refusal(sweep, now)


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
    """Empty where nobody holds it. A read that met a put halfway is repeated."""
    for _ in range(READS):
        try:
            return dict(json.loads(objects.get(name) or b"{}"))
        except ValueError:
            time.sleep(SETTLE_S / READS)
    raise PoolError(f"{objects.uri_of(name)}: no claim can be read there; delete it if no driver is at the sweep")


def _refusal(sweep: str, held: dict[str, Any]) -> ConfigError:
    return ConfigError(f"is being driven by {_described(held)}: wait for it, end it, or choose another name", sweep)


def _described(held: dict[str, Any]) -> str:
    return f"process {held['pid']} on {held['host']} since {held['since']}" if held else "one that has ended since"
