"""A local working folder that stands for an object store, for everything that needs to append and to rename.

Files are written locally first; what is complete is pushed, and the store is the truth: a process begins with what is
there, and what never got there has not happened. A folder is such a working folder, with all that lies in it, where
`store.json` says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from haps_search.config.anchors import INPUTS
from haps_search.records.objects import Objects, Stamp
from haps_search.records.sealed import replace_text

MARKER = "store.json"
OTHERWISE = frozenset({"checkpoints", "journal.jsonl", "tune", "lock", "claim.json", INPUTS})
"""What `push_changed` and `pull` leave alone: each has a way of its own, or belongs to one machine."""
LOG = "logs/driver.log"
LOOK_S = 10.0
"""How often who follows a trial looks for what it pushed; each look is a request."""


def working_folder(uri: str) -> Path:
    """This machine's for the runs at a URI: `$HAPS_CACHE/runs/DIGEST`, else `~/.cache/haps_search/runs/DIGEST`.

    Raises:
        ConfigError: no such store.
    """
    base = os.environ.get("HAPS_CACHE")
    cache = Path(base).expanduser() if base else Path.home() / ".cache" / "haps_search"
    return working_folder_at(cache / "runs" / hashlib.sha256(uri.encode()).hexdigest()[:12], uri)


def working_folder_at(root: Path, uri: str) -> Path:
    """Make `root` a working folder for the runs at a URI. Raises ConfigError for a store that is not there."""
    Objects(uri)
    root.mkdir(parents=True, exist_ok=True)
    replace_text(root / MARKER, json.dumps({"uri": uri}) + "\n")
    return root.resolve()


def remote_of(path: Path) -> Remote | None:
    """The working folder that a path lies in; None for runs on a plain disk."""
    for folder in (path, *path.parents):
        if (folder / MARKER).is_file():
            return _opened(folder, json.loads((folder / MARKER).read_text())["uri"])
    return None


def pushed(file: Path) -> None:
    """Put a file that is complete into the store, where there is one. Raises PoolError."""
    remote = remote_of(file)
    if remote is not None:
        remote.push(file)


def dropped(file: Path) -> None:
    """Delete a file, in the store too, where there is one; one that is gone already is no error. Raises PoolError."""
    remote = remote_of(file)
    if remote is not None:
        remote.objects.delete(remote.name(file))
    file.unlink(missing_ok=True)


def pulled(folder: Path, every_s: float = 0.0) -> Path:
    """A run's or sweep's folder, its small files as the store has them or had them `every_s` ago. Raises PoolError."""
    remote = remote_of(folder)
    if remote is not None and time.monotonic() - remote.pulled_at.get(folder, -math.inf) >= every_s:
        remote.pull(folder)
    return folder


def storage(folder: Path) -> str:
    """Where Ray keeps what every node has to reach: the object store's address of a folder, or its path."""
    remote = remote_of(folder)
    return str(folder.resolve()) if remote is None else remote.objects.uri_of(remote.name(folder))


class Remote:
    """One working folder in one process. Sweeps and runs are the folders right under its root."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self.root, self.objects = root, objects
        self.pulled_at: dict[Path, float] = {}
        self._turn = threading.Lock()
        self._seen: dict[str, Stamp] = {}
        self._known: dict[str, tuple[int, int]] = {}
        self._written: dict[str, BinaryIO] = {}

    def name(self, path: Path) -> str:
        """The object of a file, or the prefix of a folder."""
        return path.relative_to(self.root).as_posix()

    def begin_writing(self, folder: Path) -> None:
        """From now on this process writes here, so that no other one on this machine pulls over its files."""
        top = self._top(folder)
        if top not in self._written:
            file = self._gate(top)
            fcntl.flock(file, fcntl.LOCK_SH)
            self._written[top] = file

    def end_writing(self, folder: Path) -> None:
        """The other way round; not having begun is no error."""
        file = self._written.pop(self._top(folder), None)
        if file is not None:
            file.close()

    @contextmanager
    def pulling(self, folder: Path) -> Iterator[bool]:
        """Whether to pull now: yes for who writes here, no where another process of this machine does.

        Where another one pulls already, its end is waited for.
        """
        top = self._top(folder)
        if top in self._written:
            yield True
            return
        with self._gate(top) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_SH)
                alone = False
            yield alone

    def push(self, file: Path) -> None:
        """Raises PoolError."""
        name = self.name(file)
        self._known[name] = _stamp(file)
        self.objects.put_file(name, file)

    def push_changed(self, folder: Path) -> None:
        """All small files of a folder but its trials' that the store has not or has otherwise. Raises PoolError."""
        for file in sorted(folder.rglob("*")):
            name = self.name(file)
            if not _ordinary(name) or "trials" in file.parts or ".tmp-" in name or not file.is_file():
                continue
            if self._known.get(name) != _stamp(file):
                self.push(file)

    def pull(self, folder: Path) -> None:
        """Bring the small files of a folder to what the store has. Raises PoolError."""
        with self._turn, self.pulling(folder) as wanted:
            there = self.objects.stamps(self.name(folder)) if wanted else {}
            self.pulled_at[folder] = time.monotonic()
            if wanted:
                self._forget(folder, there.keys())
            for name, stamp in there.items():
                # Stores count seconds. What changes twice in one here, JSONL and results, changes its size as well.
                if _ordinary(name) and self._seen.get(name) != stamp:
                    self.fetch(name, self.root / name)
                    self._seen[name] = stamp

    def fetch(self, name: str, file: Path) -> bool:
        """An object into a file, renamed into place; whether it was there. Raises PoolError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{file.name}.tmp-{os.getpid()}")
        there = self.objects.get_file(name, aside)
        if there:
            aside.replace(file)
            self._known[name] = _stamp(file)
        return there

    def _forget(self, folder: Path, there: Set[str]) -> None:
        """What trials left here and the store has not would be taken for an end of theirs."""
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            name = self.name(file)
            if "trials" in file.parts and _ordinary(name) and name not in there:
                file.unlink()

    def _top(self, folder: Path) -> str:
        return folder.relative_to(self.root).parts[0]

    def _gate(self, top: str) -> BinaryIO:
        return (self.root / f".{top}.gate").open("ab")


@lru_cache(maxsize=8)
def _opened(root: Path, uri: str) -> Remote:
    return Remote(root, Objects(uri))


def _ordinary(name: str) -> bool:
    """Of Ray's own logs only the driver's is kept."""
    parts = PurePosixPath(name).parts
    return not OTHERWISE.intersection(parts) and ".." not in parts and ("logs" not in parts or name.endswith(LOG))


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
