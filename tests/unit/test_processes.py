"""What a test starts ends with it: also what outlived its parent, and what hides its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import LEFT, MARK, Started, completed, holders, marked, ours, short_folder

ROOT = Path(__file__).parents[2]
ORPHAN = """
import subprocess, sys
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session={}).pid)
"""


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def orphan(session: bool) -> int:
    """A process whose parent has ended."""
    return int(
        subprocess.run([sys.executable, "-c", ORPHAN.format(session)], stdout=subprocess.PIPE, check=True).stdout
    )


def test_an_orphan_in_a_session_of_its_own_is_found_by_its_mark() -> None:
    with marked():
        pid = orphan(session=True)
        assert ours()[pid] == "sleep 600"
        os.kill(pid, signal.SIGKILL)
    assert MARK not in os.environ


def test_a_process_ends_with_what_it_started_also_when_it_ended_first(tmp_path: Path) -> None:
    started = Started([sys.executable, "-c", ORPHAN.format(False)], os.environ, tmp_path / "log", tmp_path)
    assert started.ended() == 0
    pid = int(started.printed())
    assert [process.pid for process in started.tree()] == [pid]
    started.kill()
    assert not lives(pid)
    assert started.wait() == 0


def test_a_killed_process_keeps_its_exit_code(tmp_path: Path) -> None:
    started = Started(["sleep", "600"], os.environ, tmp_path / "log", tmp_path)
    started.kill()
    assert started.wait() == -9


def test_nobody_lives_in_a_short_folder_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processes.left_over", holders)
    with short_folder() as folder, (folder / "ray" / "log").open("w") as log:
        hidden = subprocess.Popen(["sleep", "600"], stdout=log, env={})
    assert hidden.wait() == -9
    assert not folder.exists()
    assert LEFT.pop(hidden.pid) == "sleep 600"


def test_a_command_is_told_apart_by_its_outputs_and_leaves_nothing(tmp_path: Path) -> None:
    command = ["bash", "-c", "sleep 600 & echo $!; echo wrong >&2; exit 3"]
    done = completed(command, tmp_path, os.environ)
    assert (done.returncode, done.stderr) == (3, "wrong\n")
    assert not lives(int(done.stdout))


ORPHANED = """subprocess.run(["bash", "-c", "setsid sleep 600 & echo $! > pid"], check=True)"""
UNMARKED = """open("pid", "w").write(str(subprocess.Popen(["sleep", "600"], env={}).pid))"""
NOTHING = """open("pid", "w").write("4194305")  # above the highest"""


@pytest.mark.parametrize("workers", [pytest.param([], marks=pytest.mark.slow), ["-n", "1"]], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("body", "status"), [(ORPHANED, 1), (UNMARKED, 1), (NOTHING, 0)], ids=["orphan", "unmarked child", "nothing"]
)
def test_a_run_of_tests_that_leaves_a_process_fails_says_which_and_ends_it(
    body: str, status: int, workers: list[str], tmp_path: Path
) -> None:
    """With the fixture of tests/cluster itself."""
    (tmp_path / "conftest.py").write_text(
        f"import importlib.util, processes\n"
        f"processes.GONE_S = 0.0\n"
        f"spec = importlib.util.spec_from_file_location('c', {str(ROOT / 'tests' / 'cluster' / 'conftest.py')!r})\n"
        f"module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        f"nothing_is_left = module.nothing_is_left\n"
    )
    (tmp_path / "test_it.py").write_text(f"import subprocess\ndef test_it():\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *workers, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    done = completed(command, tmp_path, environment)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("1 passed, 1 error" in done.stdout) == ("sleep 600" in done.stdout) == bool(status)
    assert not lives(int((tmp_path / "pid").read_text()))
