"""Processes that tests started, found by descent, by a mark they inherit and by files they hold open; never by name."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
from patience import nothing, wait_for

GRACE_S, GONE_S = 10.0, 120.0
"""How long may be taken to leave: by one that is asked to, and by all when what they belong to has ended."""
MARK = "STARTED_BY_TESTS"
LEFT: dict[int, str] = {}
"""Process id -> title of those that did not leave by themselves and were ended."""
_FOR_LIFE = ("resource_tracker", "multiprocessing.forkserver")
"""What Python starts beside a process, and ends with it."""


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
    """A process with its output in a file, in a session of its own with all that it starts."""

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

    def ended(self, progress: Callable[[], object] = nothing) -> int:
        """Its exit code, once it has ended by itself."""

        def said() -> str:
            return f"it goes on for ever:\n{self.printed()[-3000:]}"

        wait_for(lambda: self.poll() is not None, said, progress=progress)
        return self.wait()

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """The process, its descendants and its session, which outlives it."""
        return _tree(self.pid)

    def kill(self) -> None:
        """All of the tree at once, as when a machine is lost."""
        _kill_all(self.tree)
        self._process.wait()

    def end(self) -> None:
        """Asked first, killed after `GRACE_S`; also what left its session while its parent lived."""
        known = self.tree()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.wait(GRACE_S)
        _staying(lambda: {process.pid: "" for process in known if _lives(process)}, 2.0)
        _kill_all(lambda: [*known, *self.tree()])
        self._process.wait()


def completed(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], progress: Callable[[], object] = nothing
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, for as long as it prints something or `progress` sees some; nothing of it is left."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdout=out, stderr=err, start_new_session=True
        )
        try:
            wait_for(
                lambda: process.poll() is not None,
                lambda: f"{command} goes on for ever:\n{_all_of(out)}\n{_all_of(err)}",
                progress=lambda: (os.fstat(out.fileno()).st_size, os.fstat(err.fileno()).st_size, progress()),
            )
        finally:
            _kill_all(lambda: _tree(process.pid))
            process.wait()
        return subprocess.CompletedProcess(command, process.returncode, _all_of(out), _all_of(err))


@contextmanager
def short_folder() -> Iterator[Path]:
    """For a Ray of its own: unix sockets allow about 100 characters, and pytest's folders are longer than that.

    Nobody lives there afterwards.
    """
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    (folder / "ray").mkdir()
    try:
        yield folder
    finally:
        LEFT.update(left_over(folder))
        _kill_all(lambda: _processes(holders(folder)))
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def marked() -> Iterator[None]:
    """What is started meanwhile can be told by its environment, whoever becomes its parent."""
    os.environ[MARK] = secrets.token_hex(8)
    try:
        yield
    finally:
        del os.environ[MARK]


def ours() -> dict[int, str]:
    """Process id -> title of all that descends from this process or has its mark."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    if MARK in os.environ:
        found |= {process.pid: process for process in psutil.process_iter() if _is_marked(process.pid)}
    alive = {pid: title(process) for pid, process in found.items() if pid != os.getpid() and _lives(process)}
    return {pid: name for pid, name in alive.items() if not any(tool in name for tool in _FOR_LIFE)}


def end_the_rest(seconds: float = GONE_S) -> dict[int, str]:
    """Those of ours that do not leave within so many seconds, and those that did not before; none is left."""
    left = {**LEFT, **_staying(ours, seconds)}
    LEFT.clear()
    _kill_all(lambda: _processes(ours()))
    return left


def title(process: psutil.Process) -> str:
    """What it calls itself; Ray's workers say which actor they are."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).strip() or process.name()
    return ""


def holders(folder: Path) -> dict[int, str]:
    """Process id -> title of whoever has a file below a folder open: what is left of a run that lives there."""
    found: dict[int, str] = {}
    for process in psutil.process_iter():
        if process.pid != os.getpid() and holds(process.pid, f"{folder}{os.sep}"):
            found[process.pid] = title(process)
    return found


def left_over(folder: Path, seconds: float = GONE_S) -> dict[int, str]:
    """The holders that do not leave within so many seconds."""
    return _staying(lambda: holders(folder), seconds)


def _all_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _staying(who: Callable[[], dict[int, str]], seconds: float) -> dict[int, str]:
    deadline = time.monotonic() + seconds
    while found := who():
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return found


def _tree(pid: int) -> list[psutil.Process]:
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(pid).children(recursive=True)
    return [*(process for process in psutil.process_iter() if _session(process.pid) == pid), *below]


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return 0


def _processes(pids: Mapping[int, str]) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if process.pid in pids]


def _kill_all(who: Callable[[], list[psutil.Process]]) -> None:
    """Again until there are none, since some may start others meanwhile."""
    while alive := [process for process in who() if _lives(process)]:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)  # no psutil.wait_procs, which would take exit codes from whoever started them


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_marked(pid: int) -> bool:
    with suppress(OSError):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return f"{MARK}={os.environ[MARK]}".encode() in variables
    return False


def holds(pid: int, prefix: str) -> bool:
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(entry.path).startswith(prefix):
                    return True
    return False
