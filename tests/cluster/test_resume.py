"""A driver killed with -9 in the middle of a sweep, and the sweep resumed: on real Ray, through the command."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import growth, wait_for
from processes import Started

from haps_search.records.jsonl import read_records
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TRIALS, STEPS = 3, 12
SETTINGS = [
    f"sweep.trials={TRIALS}", "sweep.concurrency=2", "sweep.scheduler={type: none}", "sweep.comparison=false",
    f"run.steps={STEPS}", "run.questions_per_step=4", "run.episodes_per_question=2", "run.checkpoint_every=3",
    "run.validation={every: 4, questions: 12}", "task.sizes={train: 64, validation: 24, test: 24}",
]  # fmt: skip


def steps_of(sweep: Path, number: int) -> list[int]:
    path = trial_folder(sweep, number) / "metrics.jsonl"
    return [record.step for record in read_records(path)] if path.exists() else []


def wait_until_halfway(sweep: Path, driver: Started) -> list[TrialRecord]:
    """One trial has ended, and another is between two checkpoints."""
    seen: list[TrialRecord] = []

    def halfway() -> bool:
        seen[:] = Journal(sweep).trials()
        running = [t for t in seen if t.state == "running" and len(steps_of(sweep, t.number)) >= 4]
        return bool(running) and any(t.state == "finished" for t in seen)

    wait_for(halfway, driver.printed, driver, growth(sweep))
    return seen


def test_a_sweep_killed_and_resumed_is_complete_and_no_trial_is_run_twice(
    tmp_path: Path, haps: Callable[..., Started]
) -> None:
    runs = tmp_path / "runs"
    sweep = runs / "killed"
    study = Path(__file__).parents[2] / "search_spaces" / "skills.yaml"
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    driver = haps("sweep", str(study), "--name", "killed", *settings, "--runs", str(runs), folder=tmp_path)
    before = wait_until_halfway(sweep, driver)
    driver.signal(signal.SIGKILL)
    driver.wait()
    at_kill = {t.number: Journal(sweep).trials()[t.number] for t in before}
    finished = {n: (trial_folder(sweep, n) / "result.json").stat().st_mtime_ns for n in _finished(sweep)}

    resumed = haps("resume", "killed", "--runs", str(runs), folder=tmp_path)
    assert resumed.ended(growth(sweep)) == 0, resumed.printed()
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
    assert "best trial" in resumed.printed()
    check_mlflow(runs / "mlflow.db")


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
