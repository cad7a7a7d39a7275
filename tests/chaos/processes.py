"""Processes that this run started, found by descent or by the files they hold open, never by name alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

GRACE_S = 10.0


def free_ports(count: int) -> list[int]:
    """So many ports of loopback that were free a moment ago."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Started:
    """A process with its output in a file, and all that descends from it."""

    def __init__(self, command: Sequence[object], environment: Mapping[str, str], log: Path, cwd: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                env=dict(environment), cwd=cwd, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float | None = None) -> int:
        return self._process.wait(seconds)

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants, while it lives."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.pid)
            return [own, *own.children(recursive=True)]
        return []

    def kill(self) -> None:
        """All of the tree at once, as when a machine is lost."""
        for each in self.tree():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()

    def end(self) -> None:
        """Asked first, killed after `GRACE_S`."""
        tree = self.tree()
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.wait(GRACE_S)
        _, alive = psutil.wait_procs(tree, timeout=2.0)
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()


def title(process: psutil.Process) -> str:
    """What it calls itself; Ray's workers say which actor they are."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).strip() or process.name()
    return ""


def holders(folder: Path) -> dict[int, str]:
    """Process id -> title of whoever has a file below a folder open: what is left of a run that lives there."""
    found: dict[int, str] = {}
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _holds(process.pid, f"{folder}{os.sep}"):
            found[process.pid] = title(process)
    return found


def left_over(folder: Path, seconds: float = 30.0) -> dict[int, str]:
    """The holders that do not leave within so many seconds."""
    deadline = time.monotonic() + seconds
    while found := holders(folder):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return found


def _holds(pid: int, prefix: str) -> bool:
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(entry.path).startswith(prefix):
                    return True
    return False
