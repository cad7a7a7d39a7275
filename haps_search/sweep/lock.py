"""One driver per sweep, held by the operating system so that no death can leave it closed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from haps_search.errors import ConfigError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """An exclusive lock on a file for the life of the process or until `release`; kill -9 frees it too.

    The file names its holder and stays behind: removing it would let two drivers lock two files. On NFS the lock is
    the server's, so it holds between machines; the server frees that of a lost machine when its lease is over.
    """

    def __init__(self, file: Path) -> None:
        """Take the lock.

        Raises:
            ConfigError: another driver holds it, and the message says which; or the file system has no locks.
        """
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise _refusal(error, file) from error
        self._held: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "leaving": False,
        }
        self.why = ""
        """Why its holder leaves, "" while it does not."""
        self._write()

    @property
    def leaving(self) -> bool:
        return bool(self._held["leaving"])

    def leave(self, why: str) -> None:
        """Tell the trials, which read the file, that the holder leaves; the next holder's words replace it."""
        self.why = self.why or why
        self._held["leaving"] = True
        self._write()

    def release(self) -> None:
        """Let the next driver in; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        # Blanks to the old end instead of a cut first: readers must never find an empty file.
        text = json.dumps(self._held).encode()
        os.pwrite(self._descriptor, text.ljust(os.fstat(self._descriptor).st_size), 0)
        os.fsync(self._descriptor)


def told_to_leave(file: Path) -> bool:
    """Whether the driver of a sweep asked its trials to save and leave.

    Opened anew at each call: that is when NFS looks at what other machines wrote.
    """
    return _read(file).get("leaving") is True


def holder(file: Path) -> dict[str, Any] | None:
    """`pid`, `host` and `since` of the driver that holds the lock now, None where nobody does."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file)
    finally:
        os.close(descriptor)
    return None


def last_holder(file: Path) -> dict[str, Any]:
    """What the file says of who holds the lock, or held it last; empty where nobody has."""
    return _read(file)


def _refusal(error: OSError, file: Path) -> Exception:
    if isinstance(error, BlockingIOError):
        way_out = "wait for it, end it (`haps stop`), or choose another name"
        return ConfigError(f"is being driven by {_described(_read(file))}: {way_out}", file.parent.name)
    if error.errno in _WITHOUT_LOCKS:
        way_out = "mount it with locks (NFS: without `nolock`), or put --runs elsewhere"
        return ConfigError(
            f"its file system cannot lock files ({error.strerror}), so two drivers could meet: {way_out}", str(file)
        )
    return error


def _described(held: dict[str, Any]) -> str:
    try:
        return f"process {held['pid']} on {held['host']} since {held['since']}"
    except KeyError:
        return "a process that has just started"


def _read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
