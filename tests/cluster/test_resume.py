"""A driver killed with -9 in the middle of a sweep, and the sweep resumed: on real Ray, through the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from haps_search.records.jsonl import read_records
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

pytestmark = pytest.mark.ray
TRIALS, STEPS = 3, 16
SETTINGS = [
    f"sweep.trials={TRIALS}", "sweep.concurrency=2", "sweep.scheduler={type: none}", "sweep.comparison=false",
    f"run.steps={STEPS}", "run.questions_per_step=8", "run.episodes_per_question=2", "run.checkpoint_every=3",
    "run.validation={every: 4, questions: 12}", "task.sizes={train: 64, validation: 24, test: 24}",
]  # fmt: skip


def haps(*arguments: str, folder: Path, ray_folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "haps_search.cli.main", *arguments, "--runs", str(folder / "runs")],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_of(sweep: Path, number: int) -> list[int]:
    path = trial_folder(sweep, number) / "metrics.jsonl"
    return [record.step for record in read_records(path)] if path.exists() else []


def wait_until_halfway(sweep: Path, driver: subprocess.Popen[str]) -> list[TrialRecord]:
    """One trial has ended, and another is between two checkpoints."""
    for _ in range(1200):
        assert driver.poll() is None, driver.communicate()[0]
        trials = Journal(sweep).trials()
        running = [t for t in trials if t.state == "running" and len(steps_of(sweep, t.number)) >= 4]
        if running and any(t.state == "finished" for t in trials):
            return trials
        time.sleep(0.1)
    raise AssertionError("the sweep never came halfway")


def test_a_sweep_killed_and_resumed_is_complete_and_no_trial_is_run_twice(tmp_path: Path, short_folder: Path) -> None:
    sweep = tmp_path / "runs" / "killed"
    study = Path(__file__).parents[2] / "search_spaces" / "skills.yaml"
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    driver = haps("sweep", str(study), "--name", "killed", *settings, folder=tmp_path, ray_folder=short_folder)
    before = wait_until_halfway(sweep, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    at_kill = {t.number: Journal(sweep).trials()[t.number] for t in before}
    finished = {n: (trial_folder(sweep, n) / "result.json").stat().st_mtime_ns for n in _finished(sweep)}

    resumed = haps("resume", "killed", folder=tmp_path, ray_folder=short_folder)
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output
    after = Journal(sweep).trials()

    assert [t.number for t in after] == list(range(TRIALS))
    assert {t.state for t in after} == {"finished"}
    for number, record in at_kill.items():
        assert after[number].parameters == record.parameters, "a resume changed a trial"
    for number, written in finished.items():
        assert after[number].attempts == 1, "a finished trial was run again"
        assert (trial_folder(sweep, number) / "result.json").stat().st_mtime_ns == written
    assert finished
    assert any(t.attempts == 2 for t in after), "nothing was interrupted, so nothing was tested"
    for number in range(TRIALS):
        assert steps_of(sweep, number) == list(range(1, STEPS + 1)), "a step is missing or there twice"
    assert len({json.dumps(t.parameters, sort_keys=True) for t in after}) == TRIALS
    assert "best trial" in output
    check_mlflow(tmp_path / "runs" / "mlflow.db")


def _finished(sweep: Path) -> list[int]:
    """By the runs' own word: the journal may not have come to note it."""
    return [n for n in range(TRIALS) if (trial_folder(sweep, n) / "result.json").exists()]


def check_mlflow(database: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("haps_search")
    assert experiment is not None
    runs: list[Any] = list(client.search_runs([experiment.experiment_id]))
    names = sorted(run.info.run_name for run in runs)
    assert names == sorted(["killed", *(f"{n:03d}" for n in range(TRIALS))]), "a run was made anew"
    parent = next(run for run in runs if run.info.run_name == "killed")
    for run in runs:
        assert run.info.status == "FINISHED"
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            history = client.get_metric_history(run.info.run_id, "reward")
            assert sorted(point.step for point in history) == list(range(1, STEPS + 1))
