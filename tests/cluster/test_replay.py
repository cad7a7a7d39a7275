"""A replay sweep of two objectives on real Ray, through the command: killed in the middle, resumed, complete, its
Pareto front kept; no pool is started."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from patience import growth, wait_for
from processes import Started
from replays import replay_experiment, skilled

from haps_search.records.jsonl import read_records
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 600
WEIGHTS = (0.0, 0.5, 3.0)
"""The right model's whole price is paid, is paid, and is not even for the cheapest."""


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


def wait_until_underway(sweep: Path, driver: Started) -> int:
    seen: list[int] = []

    def underway() -> bool:
        seen[:] = [number for number in range(3) if 60 <= len(steps_of(sweep, number)) < STEPS]
        return bool(seen)

    wait_for(underway, driver.printed, driver, growth(sweep), every_s=0.05)
    return seen[0]


def test_a_replay_sweep_killed_and_resumed_is_complete(tmp_path: Path, haps: Callable[..., Started]) -> None:
    sweep, study = tmp_path / "runs" / "replayed", written_study(tmp_path)
    here: dict[str, Any] = {
        "folder": tmp_path,
        "HAPS_RUNS": str(tmp_path / "runs"),
        "HAPS_CACHE": str(tmp_path / "cache"),
    }
    driver = haps("sweep", str(study), **here)
    interrupted = wait_until_underway(sweep, driver)
    driver.signal(signal.SIGKILL)
    driver.wait()

    resumed = haps("resume", "replayed", **here)
    assert resumed.ended(growth(sweep)) == 0, resumed.printed()
    trials = Journal(sweep).trials()
    assert {t.state for t in trials} == {"finished"}
    assert len(trials) == 3
    assert trials[interrupted].attempts == 2
    for trial in trials:
        assert steps_of(sweep, trial.number) == list(range(1, STEPS + 1)), "a step is missing or there twice"
        assert (trial.metrics["validation_reward"] >= 0.95) == (trial.parameters["learning.cost_weight"] < 1)
    told = haps("report", "replayed", **here)
    assert told.ended(growth(sweep)) == 0, told.printed()
    (front,) = sweep.rglob("front.csv")
    with front.open() as file:
        placed = {int(row["trial"]): row for row in csv.DictReader(file)}
    assert set(placed) == {0, 1, 2}
    assert placed[2]["on front"] == "1", "nothing is cheaper than the cheapest"
    assert "1" in (placed[0]["on front"], placed[1]["on front"]), "nothing earns more than the right model"
    assert "without a pool" in resumed.printed()
    assert not (sweep / "logs" / "pool-0").exists(), "Ray Train was started for nobody"
