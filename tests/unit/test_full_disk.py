"""A disk that is full while a run saves: it stops with the place and the way out, and goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import a_study

from haps_search.errors import PoolError
from haps_search.records.jsonl import read_records
from haps_search.records.room import room_on
from haps_search.records.run_folder import RunFolder

SAVES = """
import resource, signal, sys
from pathlib import Path
import torch
from sweeps import a_study
from haps_search.errors import PoolError
from haps_search.records.run_folder import RunFolder
from haps_search.types import Snapshot

def saved(step, numbers):
    run.save(step, Snapshot({"w": torch.full((numbers,), float(step))}, {}), {"step": step}, best=False)

run = RunFolder(Path(sys.argv[1]) / "run", a_study().experiment)
saved(1, 100)
%s
try:
    saved(2, 200_000)
except PoolError as error:
    print("said", error)
%s
found = run.latest()
print("kept", found.step, found.skipped, sorted(p.name for p in (run.path / "checkpoints").glob("step-??????")))
saved(2, 200_000)
print("then", run.latest().step)
"""
SMALL_DISK = "filler = Path(sys.argv[1]) / 'filler'; filler.write_bytes(bytes(400_000))", "filler.unlink()"
# Files may not grow beyond a quota; Python has the signal that would end it ignored.
SMALL_FILES = (
    "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))",
    "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
)
MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def in_a_process(folder: Path, full: tuple[str, str], small: bool) -> str:
    command = [sys.executable, "-c", SAVES % full, str(folder)]
    if small:
        mount = 'mount -t tmpfs -o size=1100k tmpfs "$0" && exec "$@"'
        command = [*MOUNTED, mount, str(folder), *command]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(output: str, folder: Path, words: str) -> None:
    said, kept, then = output.strip().splitlines()
    assert said.startswith(f"said {folder / 'run'}: cannot be written ({words}; ")
    assert "bytes are free there" in said
    assert "the last checkpoint is whole" in said
    assert kept == "kept 1 () ['step-000001']"
    assert then == "then 2"


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one: a file system of 1.1 MB, mounted where only the process sees it."""
    if subprocess.run([*MOUNTED, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system of his own")
    check(in_a_process(tmp_path, SMALL_DISK, small=True), tmp_path, "No space left on device")


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    check(in_a_process(tmp_path, SMALL_FILES, small=False), tmp_path, "File too large")


def test_other_errors_of_the_disk_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), room_on(tmp_path):
        raise PermissionError(13, "denied")
    with pytest.raises(PoolError, match="Disk quota exceeded"), room_on(tmp_path):
        raise OSError(122, "over")


def test_a_resume_without_room_stops_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run", a_study().experiment)
    for step in range(3):
        run.log(step, {"reward": 0.5})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PoolError, match=r"No space left on device; .* make room"):
            run.forget_after(1)
    run.forget_after(1)
    assert [record.step for record in read_records(tmp_path / "run" / "metrics.jsonl")] == [0, 1]
