"""`haps train` in MLflow: a run goes on in its own, and another of its name gets one of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from replays import replay_experiment, skilled

from haps_search.config.load import parse_study
from haps_search.records.mlflow_tracker import MlflowStore
from haps_search.verbs.train import train


def test_runs_of_one_name_are_told_apart_and_one_that_goes_on_is_not(
    open_store: Callable[[], MlflowStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path / "cache"))
    store = open_store()
    table = skilled(tmp_path / "t.jsonl", 90)
    run = {"steps": 4, "questions_per_step": 8, "checkpoint_every": 2, "validation": {"every": 2}}
    study = parse_study({
        "name": "one", "experiment": replay_experiment(table, run=run).model_dump(mode="json"),
        "tracking": {"uri": store.uri},
    })  # fmt: skip
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there, here):
        folder.mkdir(parents=True, exist_ok=True)
        train(study, "one", folder)
    experiment = store.client.get_experiment_by_name("haps_search")
    assert experiment is not None
    runs = store.client.search_runs([experiment.experiment_id], "tags.`haps.kind` = 'trial'")
    assert len(runs) == 2
    for found in runs:
        assert found.info.status == "FINISHED"
        points = store.client.get_metric_history(found.info.run_id, "reward")
        assert sorted(point.step for point in points) == [1, 2, 3, 4]
