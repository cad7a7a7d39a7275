"""A replay sweep of two objectives on real Ray, through the command: killed in the middle, resumed, complete, its
Pareto front kept; no pool is started."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from replays import replay_experiment, skilled

from haps_search.records.jsonl import read_records
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 600
WEIGHTS = (0.0, 0.5, 3.0)
"""The right model's whole price is paid, is paid, and is not even for the cheapest."""


def haps(*arguments: str, folder: Path, ray_folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "COLUMNS": "200", "HAPS_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "haps_search.cli.main", *arguments, "--runs", str(folder / "runs")],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def written_study(folder: Path) -> Path:
    run = {"steps": STEPS, "questions_per_step": 64, "checkpoint_every": 20, "validation": {"every": 100}}
    table = skilled(folder / "table.jsonl", costs=(1.0, 2.0, 4.0))
    described = replay_experiment(table, run=run).model_dump(mode="json")
    study = {
        "name": "replayed",
        "experiment": {**described, "engine": {"type": "ray", "profile": "local-cpu"}},
        "space": {"learning.cost_weight": {"type": "choice", "values": list(WEIGHTS)}},
        "sweep": {
            "trials": 3,
            "concurrency": 2,
            "sampler": {"type": "grid"},
            "objectives": [{"metric": "validation_reward"}, {"metric": "validation_cost", "mode": "min"}],
        },
        "tracking": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


def steps_of(sweep: Path, number: int) -> list[int]:
    path = trial_folder(sweep, number) / "metrics.jsonl"
    return [record.step for record in read_records(path)] if path.exists() else []


def wait_until_underway(sweep: Path, driver: subprocess.Popen[str]) -> int:
    for _ in range(1200):
        assert driver.poll() is None, driver.communicate()[0]
        for number in range(3):
            if 60 <= len(steps_of(sweep, number)) < STEPS:
                return number
        time.sleep(0.05)
    raise AssertionError("no trial ever got underway")


def test_a_replay_sweep_killed_and_resumed_is_complete(tmp_path: Path, short_folder: Path) -> None:
    sweep, study = tmp_path / "runs" / "replayed", written_study(tmp_path)
    driver = haps("sweep", str(study), folder=tmp_path, ray_folder=short_folder)
    interrupted = wait_until_underway(sweep, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    resumed = haps("resume", "replayed", folder=tmp_path, ray_folder=short_folder)
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output
    trials = Journal(sweep).trials()
    assert {t.state for t in trials} == {"finished"}
    assert len(trials) == 3
    assert trials[interrupted].attempts == 2
    for trial in trials:
        assert steps_of(sweep, trial.number) == list(range(1, STEPS + 1)), "a step is missing or there twice"
        assert (trial.metrics["validation_reward"] >= 0.95) == (trial.parameters["learning.cost_weight"] < 1)
    told = haps("report", "replayed", folder=tmp_path, ray_folder=short_folder)
    assert told.wait(120) == 0, told.communicate()[0]
    (front,) = sweep.rglob("front.csv")
    with front.open() as file:
        placed = {int(row["trial"]): row for row in csv.DictReader(file)}
    assert set(placed) == {0, 1, 2}
    assert placed[2]["on front"] == "1", "nothing is cheaper than the cheapest"
    assert "1" in (placed[0]["on front"], placed[1]["on front"]), "nothing earns more than the right model"
    assert "without a pool" in output
    assert not (sweep / "logs" / "pool-0").exists(), "Ray Train was started for nobody"
