"""What a user gets: the wheel, built and installed into an empty environment, sweeps from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import growth
from processes import Started

from haps_search.sweep.journal import Journal

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
SETTINGS = [
    "sweep.scheduler={type: none}", "sweep.comparison=false", "run.steps=8", "run.questions_per_step=8",
    "run.episodes_per_question=2", "run.validation={every: 4, questions: 12}",
    "task.sizes={train: 64, validation: 24, test: 24}",
]  # fmt: skip


def told(*command: object, cwd: Path) -> str:
    """What a command prints, by an environment that knows nothing of this checkout."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=outside(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def outside(**variables: str) -> dict[str, str]:
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HAPS_") and name not in hidden}
    return {**kept, "COLUMNS": "200", **variables}


@pytest.fixture
def installed(tmp_path: Path, short_folder: Path) -> Path:
    """The programs of an environment that has the wheel and the versions of the lock."""
    told(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").iterdir()
    told(sys.executable, "-m", "venv", short_folder / "venv", cwd=tmp_path)
    told(short_folder / "venv" / "bin" / "python", ROOT / ".ci" / "install.py", wheel, cwd=tmp_path)
    return short_folder / "venv" / "bin"


def test_the_wheel_in_an_empty_environment_and_folder_sweeps_to_the_end(
    installed: Path, tmp_path: Path, short_folder: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    package = told(installed / "python", "-c", "import haps_search; print(haps_search.__file__)", cwd=empty)
    assert Path(package).is_relative_to(installed.parent)
    set_ = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [installed / "haps", "sweep", "skills", "--trials", "2", *set_]
    driver = Started(command, outside(RAY_TMPDIR=str(short_folder)), short_folder / "printed.log", empty)
    try:
        assert driver.ended(growth(empty, driver.log)) == 0, driver.printed()
    finally:
        driver.kill()
    assert "best trial" in driver.printed()
    assert [trial.state for trial in Journal(empty / "runs" / "skills").trials()] == ["finished", "finished"]
    assert (empty / "runs" / "skills" / "report.json").exists()
