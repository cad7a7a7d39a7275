"""Folders that are either there in full or not at all: written aside, digested, synced, renamed.

A folder `NAME` is written as `NAME.tmp-PID`. Where `NAME` exists already it steps aside as `NAME.old-PID`
for the moment between two renames; `locate` finds it there, and `clean` puts it back after a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from haps_search.errors import CheckpointError

DIGESTS = "digests.json"
_LEFTOVER = re.compile(r"^(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)$")


class DamagedCheckpoint(CheckpointError):
    """A file is missing, cut short or changed since it was written."""


def open_aside(target: Path) -> Path:
    """An empty folder beside `target` to write into."""
    aside = _aside_name(target)
    aside.mkdir(parents=True)
    return aside


def remove(target: Path) -> None:
    """Delete a folder; renamed first, so that a kill while deleting leaves no half of it behind."""
    aside = _aside_name(target)
    target.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def seal(aside: Path, target: Path) -> None:
    """Write the digests, sync everything to disk and let `aside` take the place of `target`."""
    digests = {path.name: _digest(path) for path in sorted(aside.iterdir())}
    (aside / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n")
    for path in (*aside.iterdir(), aside):
        sync(path)
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    aside.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def verify(folder: Path) -> None:
    """Compare every file with its digest.

    Raises:
        DamagedCheckpoint: naming the file, the digest expected and the digest got.
    """
    for name, expected in _read_digests(folder / DIGESTS).items():
        path = folder / name
        got = _digest(path) if path.is_file() else "no such file"
        if got != expected:
            raise DamagedCheckpoint(f"{path}: damaged: expected sha256 {expected}, got {got}")


def intact(file: Path) -> bool:
    """Whether a file of a sealed folder matches its digest; of one whose table of digests is damaged none does."""
    try:
        expected = _read_digests(file.with_name(DIGESTS)).get(file.name)
    except DamagedCheckpoint:
        return False
    return expected == _digest(file)


def locate(target: Path) -> Path | None:
    """Where the folder's content is now: at `target`, or aside if a writer was killed between two renames."""
    if target.is_dir():
        return target
    return next(iter(sorted(target.parent.glob(f"{target.name}.old-*"))), None)


def clean(parent: Path) -> None:
    """Remove what dead writers, or this one's failed writes, left; put back what they had moved aside."""
    for path in sorted(parent.iterdir()):
        match = _LEFTOVER.match(path.name)
        if match is None:
            continue
        target = parent / match["name"]
        if match["kind"] == "old" and not target.exists():
            path.rename(target)
        elif _other_is_alive(int(match["pid"])):
            continue
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a small file aside and rename it into place."""
    aside = _aside_name(path)
    aside.write_text(text)
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside_name(target: Path) -> Path:
    return target.with_name(f"{target.name}.tmp-{os.getpid()}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_digests(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}: damaged: expected a table of digests, got {error}") from error


def _other_is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
