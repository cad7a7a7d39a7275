"""Small files that a study names, taken along: packed into a job, and kept beside the sweep where the job runs.

Their names carry a digest of what is in them, so that changed data is a changed study and is refused as one. Where an
object store keeps the sweep, it has the files too, and a machine that lacks one fetches it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from haps_search.config.anchors import INPUTS, Rename, copy_name, renamed
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.records.remote import remote_of

LIMIT_BYTES = 100_000_000
"""What all files of a study may have together, to travel with it."""
WEIGHTS = (".gguf", ".safetensors")
RAYS_PACKAGES = "working_dir_files"
"""The folder under which Ray unpacks the working directory of a job; it is gone with the cluster."""


def kept(study: Study, sweep: Path) -> Study:
    """The study with copies in the sweep's folder for its files that would be gone with this machine.

    These are the files that came in a Ray job's package, and, where an object store keeps the sweep, files of data
    that have `LIMIT_BYTES` together at most. Other names stay: every node has to see them.
    """
    here, left = Path.cwd(), LIMIT_BYTES if remote_of(sweep) is not None else 0
    packaged = RAYS_PACKAGES in here.parts

    def keep(name: str) -> str:
        nonlocal left
        source = Path(name)
        if packaged and source.is_relative_to(here) and source.exists():
            return str(copied(source, sweep / INPUTS))
        if not source.is_file() or source.suffix in WEIGHTS or source.stat().st_size > left:
            return name
        left -= source.stat().st_size
        return str(copied(source, sweep / INPUTS))

    return renamed(study, keep) if packaged or left else study


def put_inputs(sweep: Path) -> None:
    """The files kept beside a sweep into its object store, where it has one. Raises PoolError."""
    remote = remote_of(sweep)
    if remote is not None:
        there = remote.objects.stamps(remote.name(sweep / INPUTS))
        for file in sorted((sweep / INPUTS).glob("[!.]*")):
            if file.is_file() and remote.name(file) not in there:
                remote.push(file)


def at_hand(sweep: Path) -> Rename:
    """Of copies kept beside a sweep: the names they have on this machine, to which they are fetched where it has none.

    A name stays where the object store has no such copy. Asking raises PoolError where the store does not answer.
    """

    def find(name: str) -> str:
        copy = copy_name(name)
        if copy is None or Path(name).exists():
            return name
        own, remote = sweep / INPUTS / copy, remote_of(sweep)
        there = own.exists() or (remote is not None and remote.fetch(remote.name(own), own))
        return str(own) if there else name

    return find


def all_at_hand(study: Study, sweep: Path) -> Study:
    """The study with its copies where this machine has them.

    Raises:
        ConfigError: the copies that are neither here nor in the object store, each with the way out.
        PoolError: the store does not answer.
    """
    find, missing = at_hand(sweep), list[str]()

    def checked(name: str) -> str:
        found = find(name)
        if copy_name(found) is not None and not Path(found).exists():
            missing.append(f"{found} is not here, and no copy of it beside the sweep: {_way_out(sweep, found)}")
        return found

    study = renamed(study, checked)
    if missing:
        raise ConfigError(list(dict.fromkeys(missing)), f"sweep {sweep.name}")
    return study


def _way_out(sweep: Path, name: str) -> str:
    again = "or `haps submit` the study again from where its files are"
    return (
        f"put it at {sweep / INPUTS / Path(name).name} (folders and weights are not sent to an object store), {again}"
    )


def copied(source: Path, folder: Path) -> Path:
    """A copy of a file or folder in `folder`, under its name and digest; what is there already is left alone."""
    target = folder / sealed_name(source)
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        partial = aside / target.name
        shutil.copytree(source, partial) if source.is_dir() else shutil.copyfile(source, partial)
        os.rename(partial, target)
    except OSError:
        if not target.exists():  # else another driver was faster, with the same contents
            raise
    finally:
        shutil.rmtree(aside)
    return target


def sealed_name(source: Path) -> str:
    """The name with twelve digits of the SHA-256 of the contents before it, unless it has them."""
    digest = hashlib.sha256()
    for file in files(source):
        digest.update(f"{file.relative_to(source)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    seal = digest.hexdigest()[:12]
    return source.name if source.name.startswith(f"{seal}-") else f"{seal}-{source.name}"


def files(source: Path) -> Iterator[Path]:
    """The file itself, or all files of a folder in a fixed order."""
    if source.is_file():
        yield source
    else:
        yield from sorted(path for path in source.rglob("*") if path.is_file())
