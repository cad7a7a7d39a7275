"""Small files that a study names, taken along: packed into a job, and kept beside the sweep where the job runs.

Their names carry a digest of what is in them, so that changed data is a changed study and is refused as one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from haps_search.config.anchors import renamed
from haps_search.config.sweep import Study

FOLDER = "inputs"
RAYS_PACKAGES = "working_dir_files"
"""The folder under which Ray unpacks the working directory of a job; it is gone with the cluster."""


def kept(study: Study, sweep: Path) -> Study:
    """The study with the files that came in a Ray job's package copied to the sweep's folder, where they stay.

    Elsewhere than in a job it is as it was: paths that differ between attempts would make it another study.
    """
    here = Path.cwd()
    if RAYS_PACKAGES not in here.parts:
        return study

    def keep(name: str) -> str:
        source = Path(name)
        if not source.is_relative_to(here) or not source.exists():
            return name
        return str(copied(source, sweep / FOLDER))

    return renamed(study, keep)


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
