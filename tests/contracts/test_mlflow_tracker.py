"""The MLflow store: the same runs found again, failures bounded, nothing in the working directory."""

from __future__ import annotations

import itertools
import math
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from haps_search.errors import TrackerError
from haps_search.records.mlflow_tracker import FAILED_TAG, LAST_STEP_TAG, MlflowStore, MlflowTracker, Sweep, default_uri
from haps_search.records.tracker import Record

Open = Callable[[], MlflowStore]
SKILLS = Sweep("skills", 1.5)


def history(tracker: MlflowTracker, key: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in tracker.client.get_metric_history(tracker.run_id, key))


def test_a_resumed_sweep_finds_its_runs(open_store: Open) -> None:
    store = open_store()
    parent = store.sweep_run(SKILLS, {"sweep": {"trials": 8}}, {"note": "first"})
    trial = store.trial_tracker(SKILLS, "t1", {"lora": {"rank": 4, "targets": ["o_proj"]}})
    trial.finish("stopped", {})
    assert store.end_sweep(parent, "finished")
    resumed = open_store()
    assert resumed.sweep_run(SKILLS, {}, {}) == parent
    again = resumed.trial_tracker(SKILLS, "t1", {"lora": {"rank": 4, "targets": ["o_proj"]}, "late": True})
    assert again.run_id == trial.run_id
    runs = {run.info.run_id: run for run in resumed.client.search_runs([resumed._experiment_id])}
    assert set(runs) == {parent, trial.run_id}
    assert {run.info.status for run in runs.values()} == {"RUNNING"}
    child = runs[trial.run_id].data
    assert child.tags["mlflow.parentRunId"] == parent
    assert child.params == {"lora.rank": "4", "lora.targets": '["o_proj"]', "late": "true"}
    assert runs[parent].data.params == {"sweep.trials": "8"}
    assert runs[parent].data.tags["note"] == "first"


def test_a_run_that_ends_well_after_another_chance_is_failed_no_more(open_store: Open) -> None:
    open_store().trial_tracker(SKILLS, "t", {}).finish("failed", {"reward": float("nan")}, "boom")
    failed = open_store().trial_tracker(SKILLS, "t", {})
    assert failed.client.get_run(failed.run_id).data.tags[FAILED_TAG] == "boom"
    for _ in range(2):
        open_store().trial_tracker(SKILLS, "t", {}).finish("finished", {"reward": float("nan")})
    again = failed.client.get_run(failed.run_id)
    assert again.info.status == "FINISHED"
    assert FAILED_TAG not in again.data.tags
    assert len(history(failed, "summary/reward")) == 1


def test_trials_and_sweeps_do_not_meet(open_store: Open) -> None:
    store = open_store()
    sweeps = Sweep("a", 1.5), Sweep("a", 1.25), Sweep("b", 1.5)
    trackers = [store.trial_tracker(sweep, trial, {}) for sweep in sweeps for trial in ("1", "2")]
    runs = store.client.search_runs([store._experiment_id])
    assert len({tracker.run_id for tracker in trackers}) == 6
    assert len(runs) == 9


def test_parameters_written_once_keep_their_value(open_store: Open, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store()
    many: dict[str, Any] = {f"p{i}": i for i in range(250)}
    run_id = store.sweep_run(SKILLS, {**many, "text": "x" * 7000}, {})
    store.sweep_run(SKILLS, {"p1": 99, "text": "x" * 7000}, {})
    params = store.client.get_run(run_id).data.params
    assert (len(params), params["p1"], params["text"]) == (251, "1", "x" * 6000)
    assert "keeps its first values of p1" in caplog.text


def test_a_kill_between_metrics_and_tag_counts_the_metrics(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = open_store().trial_tracker(SKILLS, "t", {})
    tracker.log(0, {"reward": 0.0})
    real = tracker.client.log_batch
    monkeypatch.setattr(tracker.client, "log_batch", lambda run, metrics, tags: real(run, metrics=metrics))
    tracker.log(1, {"reward": 0.5})
    resumed = open_store().trial_tracker(SKILLS, "t", {})
    assert resumed.client.get_run(resumed.run_id).data.tags[LAST_STEP_TAG] == "0"
    assert resumed.last_step == 1
    for step in range(3):
        resumed.log(step, {"reward": step / 2})
    assert history(resumed, "reward") == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_an_answer_that_got_lost_makes_no_second_point(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = open_store().trial_tracker(SKILLS, "t", {})
    real = tracker.client.log_batch

    def take_and_time_out(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise MlflowException("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", take_and_time_out)
        tracker.log(0, {"reward": 0.25, "loss": float("nan")})
    assert (tracker.missed, tracker.failures) == (1, 1)
    tracker.log(1, {"reward": 0.5})
    assert tracker.missed == 0
    assert history(tracker, "reward") == [(0, 0.25), (1, 0.5)]


def test_an_ending_that_the_store_did_not_take_is_tried_again(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    tracker = store.trial_tracker(SKILLS, "t", {})
    tracker.log(0, {"reward": 0.25})

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("the server went away")

    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "set_terminated", refuse)
        tracker.finish("finished", {"reward": 0.5})
    assert tracker.missed == 1
    tracker.log_many([])
    run = store.client.get_run(tracker.run_id)
    assert (tracker.missed, run.info.status, run.data.metrics["summary/reward"]) == (0, "FINISHED", 0.5)


def test_a_driver_that_closes_a_closed_run_again_leaves_it_as_it_is(open_store: Open) -> None:
    """Its end keeps its time, and what is not finite gets no second point."""
    summary = {"reward": 0.1, "cost": math.nan, "gain": math.inf}
    ends = []
    for _ in range(3):
        tracker = open_store().trial_tracker(SKILLS, "t", {})
        tracker.log_many([Record(0, {"reward": 0.25}, 1e9)])
        tracker.finish("finished", summary)
        ends.append(tracker.client.get_run(tracker.run_id).info.end_time)
        time.sleep(0.01)
    assert len(set(ends)) == 1
    assert [len(history(tracker, f"summary/{name}")) for name in summary] == [1, 1, 1]
    resumed = open_store().trial_tracker(SKILLS, "t", {})
    resumed.log(1, {"reward": 0.5})
    resumed.finish("finished", summary)
    assert resumed.client.get_run(resumed.run_id).info.end_time > ends[0]


def test_a_run_that_succeeds_after_a_failure_no_longer_says_why_it_failed(open_store: Open) -> None:
    failed = open_store().trial_tracker(SKILLS, "t", {})
    failed.finish("failed", {}, "CandidateError: boom")
    assert failed.client.get_run(failed.run_id).data.tags[FAILED_TAG] == "CandidateError: boom"
    again = open_store().trial_tracker(SKILLS, "t", {})
    again.finish("finished", {"reward": 0.5})
    run = again.client.get_run(again.run_id)
    assert (run.info.status, FAILED_TAG in run.data.tags) == ("FINISHED", False)


def test_a_slow_failure_is_not_repeated_at_every_step(open_store: Open) -> None:
    now, calls = [0.0], []

    def hang(*_: object, **__: object) -> None:
        calls.append(now[0])
        now[0] += 13.0
        raise MlflowException("timed out")

    run = open_store().client.create_run("0")
    client: Any = SimpleNamespace(log_batch=hang)
    tracker = MlflowTracker(client, run, clock=lambda: now[0])
    for step in range(300):
        tracker.log(step, {"reward": 0.0})
        now[0] += 1.0
    assert len(calls) == 3
    assert tracker.missed == 300


def test_names_mlflow_refuses_are_mended(open_store: Open) -> None:
    tracker = open_store().trial_tracker(SKILLS, "t", {"a[0]": 1})
    tracker.log(0, {"share[adder]": 0.5, "/a//../b/": 1.0, "..": 2.0})
    assert tracker.missed == 0
    metrics = tracker.client.get_run(tracker.run_id).data.metrics
    assert metrics == {"share_adder_": 0.5, "a/b": 1.0, "_": 2.0}


def test_artifacts_lie_beside_the_database(open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    store = open_store()
    tracker = store.trial_tracker(SKILLS, "t", {})
    (tmp_path / "space.yaml").write_text("name: skills\n")
    assert store.artifact(tracker.run_id, tmp_path / "space.yaml")
    assert not store.artifact(tracker.run_id, tmp_path / "absent.yaml")
    kept = list((tmp_path / "runs" / "mlflow-artifacts").rglob("space.yaml"))
    assert [path.read_text() for path in kept] == ["name: skills\n"]
    assert list(elsewhere.iterdir()) == []


def test_a_new_database_is_whole_or_absent(
    mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import haps_search.records.mlflow_tracker as module

    def die(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "MlflowClient", die)
    with pytest.raises(KeyboardInterrupt):
        MlflowStore(default_uri(tmp_path / "runs"), "e")
    assert list((tmp_path / "runs").iterdir()) == []
    with sqlite3.connect(mlflow_database) as made:
        assert made.execute("select count(*) from experiments").fetchone() == (1,)
    assert [path.name for path in mlflow_database.parent.iterdir()] == ["template.db"]


def test_a_file_that_drivers_of_several_hosts_write_keeps_its_journal_beside_it(
    open_store: Open, tmp_path: Path
) -> None:
    """A rollback journal needs the file system's locks alone, which a sweep's own lock asks for; sqlite's other kind,
    WAL, needs memory that its writers share, and two hosts have none."""
    tracker = open_store().trial_tracker(SKILLS, "1", {})
    tracker.log(1, {"reward": 0.5})
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        assert database.execute("pragma journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:9", "refused"),
        ("sqlite:///mlflow.db", "four slashes"),
        ("sqlite:////a%20b/mlflow.db", "cannot hold %"),
        ("sqlite:////proc/none/mlflow.db", "cannot be used"),
        ("nonsense://x", "Supported URI schemes"),
    ],
)
def test_a_store_that_cannot_start_says_so_at_once(uri: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(TrackerError, match=words):
        MlflowStore(uri, "e")
    assert sum(pauses) < 5, "MLflow's own retries take minutes"


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be read as a header" * 4)
    with pytest.raises(TrackerError, match="not a database"):
        MlflowStore(default_uri(tmp_path), "e")


def connections(server: socket.socket) -> int:
    """How many wait to be accepted."""
    server.setblocking(False)
    for count in itertools.count():
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * 2 <= 15
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TrackerError, match="timed out"):
            MlflowStore(uri, "e")
        assert 1 <= connections(silent) <= 2


def test_a_deleted_experiment_is_named(open_store: Open) -> None:
    store = open_store()
    store.client.delete_experiment(store._experiment_id)
    with pytest.raises(TrackerError, match="'contract' was deleted; restore it"):
        open_store()


def test_times_are_those_of_the_record(open_store: Open) -> None:
    tracker = open_store().trial_tracker(SKILLS, "t", {})
    tracker.log_many([Record(0, {"reward": 1.0}, 1_700_000_000.5)])
    (metric,) = MlflowClient(open_store().uri).get_metric_history(tracker.run_id, "reward")
    assert metric.timestamp == 1_700_000_000_500
