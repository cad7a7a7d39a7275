"""Data, models and pages of a sweep in MLflow: made once, whatever was killed in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from replays import replay_experiment, skilled

from haps_search.records.jsonl import JsonlTracker
from haps_search.records.mlflow_models import data_of, keep_data, keep_model
from haps_search.records.mlflow_pages import VIEW_TAG, compare_page, runs_page, share_view
from haps_search.records.mlflow_tracker import MlflowStore, Sweep
from haps_search.records.tracker import Record
from haps_search.sweep.space import apply
from haps_search.verbs import tracking
from haps_search.verbs.tracking import data_of_task

Open = Callable[[], MlflowStore]
SKILLS = Sweep("skills", 1.5)
ROWS = [("q0", "add 1 2", "3"), ("q1", "sort b a", "a b")]
DATA = (
    data_of("training", "skills", {"type": "skills"}, ROWS),
    data_of("validation", "skills", {"type": "skills"}, ROWS[:1]),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose best checkpoint is that of step 2."""
    run = tmp_path / "run"
    tracker = JsonlTracker(run / "metrics.jsonl")
    for step in range(1, 5):
        tracker.log_many([Record(step, {"reward": step / 8, "validation_reward": step / 4}, 1e9 + step)])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.json").write_text('{"steps": [2]}')
    return run


def test_the_digest_is_that_of_the_rows() -> None:
    again = data_of("training", "skills", {"type": "skills"}, [list(row) for row in ROWS])
    assert again == DATA[0]
    assert DATA[0].count == 2
    others = ([("q0", "add 1 2", "4"), ROWS[1]], ROWS[::-1], [("q0a", "dd 1 2", "3"), ROWS[1]])
    assert len({DATA[0].digest, *(data_of("training", "s", {}, rows).digest for rows in others)}) == 4


def test_a_run_has_its_data_once(open_store: Open) -> None:
    store = open_store()
    parent = store.sweep_run(SKILLS, {}, {})
    assert keep_data(store, parent, DATA[:1])
    assert keep_data(open_store(), parent, DATA)
    inputs = store.client.get_run(parent).inputs.dataset_inputs
    found = {(i.dataset.name, i.dataset.digest, i.tags[0].value, i.dataset.profile) for i in inputs}
    assert len(inputs) == 2
    assert found == {
        ("skills-training", DATA[0].digest, "training", '{"questions": 2}'),
        ("skills-validation", DATA[1].digest, "validation", '{"questions": 1}'),
    }


def test_a_trial_of_another_fold_has_the_data_of_its_own(
    open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl", count=120))
    store, base, other = open_store(), data_of_task(experiment), data_of_task(apply(experiment, {"task.fold": 1}))
    assert {data.digest for data in base}.isdisjoint(data.digest for data in other)
    read = []
    monkeypatch.setattr(tracking, "data_of_task", lambda e: read.append(e.task.fold) or data_of_task(e))
    sweep = tracking.SweepInMlflow(store, SKILLS, "", None, base, None, experiment)  # type: ignore[arg-type]
    for trial, parameters, expected in (
        ("000", {"run.seed": 3}, base), ("001", {"task.fold": 1, "kind": "confirm"}, other),
        ("002", {"task.fold": 1}, other), ("003", {"task.table.file": "nowhere.jsonl"}, ()),
    ):  # fmt: skip
        run = store.client.get_run(sweep.trial_tracker(trial, parameters).run_id)
        assert {i.dataset.digest for i in run.inputs.dataset_inputs} == {data.digest for data in expected}
    assert read.count(1) == 1
    halves = [sweep.data_of_trial({"run.half": half}) for half in (0, 1)]
    assert [sum(found[0].count for found in halves), halves[0][1]] == [base[0].count, base[1]]


def models(store: MlflowStore) -> list[Any]:
    return list(store.client.search_logged_models([store.experiment_id]))


def test_the_best_checkpoint_is_a_model_with_the_metrics_of_its_step(open_store: Open, folder: Path) -> None:
    store = open_store()
    trial = store.trial_tracker(SKILLS, "000", {"lora.rank": 4})
    trial.log_many(
        [Record(step, {"reward": step / 8, "validation_reward": step / 4}, 1e9 + step) for step in range(1, 5)]
    )
    for opened in (store, open_store()):
        assert keep_model(opened, SKILLS, "000", folder, DATA)
    (model,) = models(store)
    assert (model.source_run_id, model.status.name, model.params) == (trial.run_id, "READY", {"lora.rank": "4"})
    assert model.tags["haps.checkpoint"].endswith("checkpoints/step-000002")
    assert {m.key: (m.value, m.step, m.dataset_digest) for m in model.metrics} == {
        "reward": (0.25, 2, None),
        "validation_reward": (0.5, 2, DATA[1].digest),
    }
    history = store.client.get_metric_history(trial.run_id, "reward")
    assert [m.step for m in history] == [1, 2, 3, 4], "the run's own points are there once"


def test_a_model_that_a_kill_left_half_made_is_finished(
    open_store: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.trial_tracker(SKILLS, "000", {})

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "finalize_logged_model", die)
        with pytest.raises(KeyboardInterrupt):
            keep_model(store, SKILLS, "000", folder, ())
    assert keep_model(open_store(), SKILLS, "000", folder, ())
    assert [model.status.name for model in models(store)] == ["READY"]


def test_a_run_without_a_checkpoint_has_no_model(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.trial_tracker(SKILLS, "000", {})
    assert keep_model(store, SKILLS, "000", tmp_path / "none", ())
    assert models(store) == []


def test_an_experiment_opens_on_its_runs_unless_somebody_said_otherwise(open_store: Open) -> None:
    store = open_store()
    kind = "mlflow.experimentKind"
    assert store.client.get_experiment(store.experiment_id).tags[kind] == "custom_model_development"
    store.client.set_experiment_tag(store.experiment_id, kind, "genai_development")
    open_store()
    assert store.client.get_experiment(store.experiment_id).tags[kind] == "genai_development"


def test_the_pages_show_one_sweep_s_runs_best_first_and_its_trials_compared(open_store: Open) -> None:
    store = open_store()
    assert compare_page("http://x", store, SKILLS) is None
    ids = [store.trial_tracker(SKILLS, f"{n:03d}", {}).run_id for n in range(3)]
    store.trial_tracker(Sweep("skills", 2.5), "000", {})
    compared = compare_page("http://x", store, SKILLS)
    assert compared is not None
    assert json.loads(unquote(compared.partition("runs=")[2].partition("&")[0])) == ids
    key = share_view(store, SKILLS, ["validation_reward", "validation_cost"], ["lora.rank"], "-validation_cost")
    page = runs_page("http://x", "1", key)
    assert page == f"http://x/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={key}"
    view = json.loads(store.client.get_experiment(store.experiment_id).tags[VIEW_TAG + key])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`validation_cost`", True)
    assert view["selectedColumns"][:3] == [
        "metrics.`validation_reward`",
        "metrics.`validation_cost`",
        "params.`lora.rank`",
    ]
    listed = store.client.search_runs([store.experiment_id], filter_string=view["searchFilter"])
    assert {run.info.run_name for run in listed} == {"skills", "000", "001", "002"}
