"""One driver per sweep, held by the operating system so that no death can leave it closed."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from haps_search.errors import ConfigError


class Lock:
    """An exclusive lock on a file for the life of the process or until `release`; kill -9 frees it too.

    The file names its holder and stays behind: removing it would let two drivers lock two files.
    """

    def __init__(self, file: Path) -> None:
        """Take the lock.

        Raises:
            ConfigError: another driver holds it; the message says which.
        """
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise ConfigError(
                f"is being driven by {_holder(file)}: wait for it, end it, or choose another name",
                file.parent.name,
            ) from error
        held = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(held).encode(), 0)

    def release(self) -> None:
        """Let the next driver in; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _holder(file: Path) -> str:
    try:
        held = json.loads(file.read_text())
        return f"process {held['pid']} on {held['host']} since {held['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just started"
