"""A run's checkpoints in an object store: the files of a step first, its digests last; without them it is not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path, PurePosixPath

from haps_search.errors import CheckpointError
from haps_search.records.checkpoint import BEST
from haps_search.records.remote import Remote
from haps_search.records.sealed import DIGESTS


def push_checkpoints(remote: Remote, folder: Path) -> None:
    """Make the store's steps those of the folder. A kill at any moment leaves the former newest one or this one.

    Raises:
        PoolError: the store has the former ones.
    """
    here = {path.name: path for path in _steps(folder)}
    stored = remote.objects.stamps(remote.name(folder))
    there = {PurePosixPath(name).parent.name for name in stored} - {folder.name}
    manifests = {step: _manifest(remote, folder / step) for step in there}
    if (folder / BEST).is_file():
        remote.push(folder / BEST)  # it names what it named before as well, so it may come first
    for step, path in here.items():
        written = (path / DIGESTS).read_bytes()
        if manifests.get(step) != written:
            _push_step(remote, path, json.loads(written), manifests)
            manifests[step] = written
    for step in there - here.keys():
        remote.objects.delete(remote.name(folder / step / DIGESTS))
        remote.objects.delete_folder(remote.name(folder / step))


def pull_checkpoints(remote: Remote, folder: Path) -> None:
    """Make the folder's steps the complete ones of the store; loading one compares its digests. Raises PoolError."""
    with remote.pulling(folder) as wanted:
        if not wanted:
            return
        there = [PurePosixPath(name) for name in remote.objects.stamps(remote.name(folder))]
        steps = [remote.root / name.parent for name in there if name.name == DIGESTS]
        for gone in set(folder.glob("step-*")) - set(steps):
            shutil.rmtree(gone)
        for step in steps:
            _pull_step(remote, step)
        if not remote.fetch(remote.name(folder / BEST), folder / BEST):
            (folder / BEST).unlink(missing_ok=True)


def _steps(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"step-*/{DIGESTS}") if path.parent.name[5:].isdigit())


def _manifest(remote: Remote, step: Path) -> bytes | None:
    return remote.objects.get(remote.name(step / DIGESTS))


def _push_step(remote: Remote, path: Path, digests: dict[str, str], manifests: dict[str, bytes | None]) -> None:
    if manifests.get(path.name) is not None:
        remote.objects.delete(remote.name(path / DIGESTS))
    for file, digest in digests.items():
        twin = _twin(file, digest, manifests, path.name)
        if twin is None:
            remote.push(path / file)
        else:
            remote.objects.copy(remote.name(path.parent / twin / file), remote.name(path / file))
    remote.push(path / DIGESTS)


def _twin(file: str, digest: str, manifests: dict[str, bytes | None], own: str) -> str | None:
    """A step that has the very same file, such as what was fitted before the first step."""
    others = ((step, json.loads(text)) for step, text in manifests.items() if text and step != own)
    return next((step for step, digests in others if digests.get(file) == digest), None)


def _pull_step(remote: Remote, step: Path) -> None:
    text = _manifest(remote, step)
    if text is None or ((step / DIGESTS).is_file() and (step / DIGESTS).read_bytes() == text):
        return
    aside = step.with_name(f"{step.name}.tmp-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        digests = json.loads(text)
        absent = [file for file in digests if not remote.fetch(remote.name(step / file), aside / file)]
    except ValueError as error:
        raise CheckpointError(f"{remote.objects.uri_of(remote.name(step / DIGESTS))}: damaged ({error})") from error
    if absent and _manifest(remote, step) is None:
        shutil.rmtree(aside)  # its writer let it go under this reader
        return
    (aside / DIGESTS).write_bytes(text)
    shutil.rmtree(step, ignore_errors=True)
    aside.rename(step)
