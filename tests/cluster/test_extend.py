"""A sweep with a setting tried first and its trackers on, given more steps and trials, killed with -9 in the middle and
resumed, on real Ray: nothing is twice in its records, in MLflow, in TensorBoard or in Optuna's storage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from replays import replay_experiment, skilled

from haps_search.records.jsonl import read_records
from haps_search.records.tensorboard_tracker import read_events
from haps_search.sweep.events import SweepStarted
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.optuna_mirror import OptunaMirror

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FEW, MANY = 120, 900
RATE = "learning.learning_rate.high"
FIRST = {RATE: 0.02}


def haps(*arguments: str, folder: Path, ray_folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "COLUMNS": "200", "HAPS_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "haps_search.cli.main", *arguments, "--runs", str(folder / "runs")],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def written_study(folder: Path) -> Path:
    run = {"steps": FEW, "questions_per_step": 64, "checkpoint_every": 20, "validation": {"every": 60}}
    table = skilled(folder / "table.jsonl", costs=(1.0, 2.0, 4.0))
    experiment = replay_experiment(table, run=run, learning__schedule={"type": "constant"}).model_dump(mode="json")
    study = {
        "name": "longer",
        "experiment": {**experiment, "engine": {"type": "ray", "profile": "local-cpu"}},
        "space": {RATE: {"type": "log", "low": 0.005, "high": 0.05}},
        "sweep": {"trials": 2, "concurrency": 2, "enqueue": [FIRST], "constraints": ["validation_cost <= 100"]},
        "tracking": {"also": ["tensorboard"], "system_metrics": True},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


def finished(driver: subprocess.Popen[str]) -> str:
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    return output


def wait_for(driver: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    for _ in range(3000):
        assert driver.poll() is None, driver.communicate()[0]
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it never came so far")


def steps_of(sweep: Path, number: int) -> list[int]:
    path = trial_folder(sweep, number) / "metrics.jsonl"
    return [record.step for record in read_records(path)] if path.exists() else []


def test_an_extended_sweep_killed_and_resumed_has_everything_once(tmp_path: Path, short_folder: Path) -> None:
    sweep, study = tmp_path / "runs" / "longer", written_study(tmp_path)
    finished(haps("sweep", str(study), folder=tmp_path, ray_folder=short_folder))
    before = Journal(sweep).trials()
    assert [t.state for t in before] == ["finished", "finished"]
    assert before[0].parameters == FIRST

    more = ("extend", "longer", "--steps", str(MANY), "--trials", "3")
    driver = haps(*more, folder=tmp_path, ray_folder=short_folder)
    wait_for(driver, lambda: any(FEW + 40 <= len(steps_of(sweep, n)) < MANY for n in (0, 1)))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    mirror = OptunaMirror(Journal(sweep))
    mirror.tick()
    mirror.close()
    output = finished(haps("resume", "longer", folder=tmp_path, ray_folder=short_folder))

    trials = Journal(sweep).trials()
    assert [t.state for t in trials] == ["finished"] * 3
    assert [dict(t.parameters) for t in trials[:2]] == [dict(t.parameters) for t in before]
    for trial in trials:
        assert steps_of(sweep, trial.number) == list(range(1, MANY + 1))
        events = [e for e in read_events(sweep / "tensorboard" / f"{trial.number:03d}") if e.summary.value]
        rewards = [e.step for e in events for v in e.summary.value if v.tag == "reward"]
        assert rewards == list(range(1, MANY + 1))
    starts = [e.steps for e in Journal(sweep).events() if isinstance(e, SweepStarted)]
    assert starts[0] == FEW
    assert set(starts[1:]) == {MANY}
    again = OptunaMirror(Journal(sweep))
    again.tick()
    stored: list[Any] = again.storage.get_all_trials(again.study_id)
    again.close()
    assert [(t.user_attrs["trial"], t.state.name) for t in stored] == [(n, "COMPLETE") for n in range(3)]
    assert "best trial" in output
    check_mlflow(tmp_path / "runs" / "mlflow.db")


def check_mlflow(database: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("haps_search")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs: dict[str, Any] = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"longer", "000", "001", "002"}
    for run in runs.values():
        contexts = [i.tags[0].value for i in run.inputs.dataset_inputs]
        assert sorted(contexts) == ["training", "validation"]
    assert "report" in [file.path for file in client.list_artifacts(runs["longer"].info.run_id)]
    assert any(key.startswith("system/") for key in runs["longer"].data.metrics)
    models = client.search_logged_models([experiment.experiment_id])
    by_run = {name: [m for m in models if m.source_run_id == run.info.run_id] for name, run in runs.items()}
    for name in ("000", "001", "002"):
        latest = [
            m for m in by_run[name] if m.tags["haps.step"] == max((x.tags["haps.step"] for x in by_run[name]), key=int)
        ]
        assert len(latest) == 1
        assert {m.key for m in latest[0].metrics} >= {"validation_reward", "validation_cost"}
        history = client.get_metric_history(runs[name].info.run_id, "reward")
        assert sorted(point.step for point in history) == list(range(1, MANY + 1))
    assert by_run["longer"] == []
