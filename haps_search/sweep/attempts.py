"""A trial's attempts: how one goes on in a folder of its own from where the former was, and what they leave."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from haps_search.records.printed import OUTPUT
from haps_search.records.remote import pulled, pushed, remote_of
from haps_search.records.remote_checkpoints import pull_checkpoints, push_checkpoints
from haps_search.records.run_folder import ERROR_FILE
from haps_search.records.standing import DESCRIBED
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import attempt_folder, trial_folder

CHECKPOINTS = "checkpoints"
_STAYS = (ERROR_FILE, OUTPUT)
"""An attempt's own: why it ended, and what it printed."""


def take_over(former: Path, own: Path) -> None:
    """Begin in `own` with the checkpoints and records of the attempt before, which may still write in `former`.

    Checkpoints are linked where the file system can: nobody writes into one that is whole. The folder is there in full
    or not at all; in an object store the file that says so comes last. Raises PoolError, OSError.
    """
    remote = remote_of(own)
    if own.exists() or not pulled(former).exists():
        return
    if remote is not None:
        pull_checkpoints(remote, former / CHECKPOINTS)
    aside = own.with_name(f".{own.name}.tmp-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    for file in _kept(former):
        _copied(file, aside / file.relative_to(former))
    if not (aside / DESCRIBED).is_file():
        return
    aside.rename(own)
    if remote is not None:
        push_checkpoints(remote, own / CHECKPOINTS)
        for file in sorted(own.iterdir(), key=lambda path: path.name == DESCRIBED):
            if file.is_file():
                pushed(file)


def drop_former(sweep: Path, record: TrialRecord) -> None:
    """Remove what attempts before the one that stands for the trial have left: it has all of it. Raises PoolError."""
    standing, remote = trial_folder(sweep, record.number), remote_of(sweep)
    for attempt in range(1, record.attempts):
        folder = attempt_folder(sweep, record.number, attempt)
        if folder != standing and folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            if remote is not None:
                remote.objects.delete_folder(remote.name(folder))


def newest_step(folder: Path) -> int:
    """The step of a run's newest checkpoint, by its name; 0 where there is none."""
    names = (path.name.removeprefix("step-") for path in (folder / CHECKPOINTS).glob("step-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _kept(folder: Path) -> Iterator[Path]:
    # Not `rglob`: it stumbles over a checkpoint's folder that its writer, who may still live, lets go of meanwhile.
    for top, _, names in os.walk(folder):
        for path in (Path(top, name) for name in names):
            if path.is_file() and path.name not in _STAYS and not any(".tmp-" in part for part in path.parts):
                yield path


def _copied(file: Path, target: Path) -> None:
    """What its writer let go meanwhile is not needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if CHECKPOINTS in file.parts and file.suffix == ".safetensors":
            try:
                os.link(file, target)
                return
            except FileNotFoundError:
                raise
            except OSError:
                pass  # a file system without links
        shutil.copy2(file, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
