"""What every tracker keeps to: a step's numbers arrive once, whatever breaks in between."""

from __future__ import annotations

import errno
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pytest

from haps_search.errors import ConfigError
from haps_search.records.jsonl import JsonlTracker, read_lines, read_records
from haps_search.records.tracker import Record, Tracker, replay
from haps_search.records.trackers import GROUP, opener

if TYPE_CHECKING:
    from haps_search.records.mlflow_tracker import MlflowStore, MlflowTracker

Point = tuple[int, str, float]


class Backend(ABC):
    """A tracker with a look behind it and a switch to break it."""

    @abstractmethod
    def open(self) -> Tracker: ...

    @abstractmethod
    def points(self) -> list[Point]:
        """Everything kept of steps, sorted, duplicates included."""

    @abstractmethod
    def ending(self) -> tuple[str, dict[str, float]]: ...

    @abstractmethod
    def broken(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A context in which the backend takes nothing."""


class FullDisk:
    """Stands in for the open file: takes half a line, then no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class JsonlBackend(Backend):
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> Tracker:
        return JsonlTracker(self.path)

    def points(self) -> list[Point]:
        return sorted((r.step, k, v) for r in read_records(self.path) for k, v in r.metrics.items())

    def ending(self) -> tuple[str, dict[str, float]]:
        fields = read_lines(self.path).fields[-1]
        return fields["status"], fields["summary"]

    @contextmanager
    def broken(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        writer = cast("JsonlTracker", tracker)._writer
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_file", FullDisk(writer._file))
            yield


class MlflowBackend(Backend):
    def __init__(self, open_store: Callable[[], MlflowStore]) -> None:
        self._open_store = open_store

    def open(self) -> Tracker:
        from haps_search.records.mlflow_tracker import Sweep

        self.tracker = self._open_store().trial_tracker(Sweep("sweep", 1.0), "trial-1", {"rank": 4})
        return self.tracker

    def points(self) -> list[Point]:
        client, run_id = self.tracker.client, self.tracker.run_id
        keys = [key for key in client.get_run(run_id).data.metrics if not key.startswith("summary/")]
        return sorted((m.step, key, m.value) for key in keys for m in client.get_metric_history(run_id, key))

    def ending(self) -> tuple[str, dict[str, float]]:
        run = self.tracker.client.get_run(self.tracker.run_id)
        words = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "running"}
        metrics = run.data.metrics
        return words[run.info.status], {
            k.removeprefix("summary/"): v for k, v in metrics.items() if k.startswith("summary/")
        }

    @contextmanager
    def broken(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        def refuse(*_: object, **__: object) -> None:
            raise MlflowException("the server went away")

        with monkeypatch.context() as patch:
            patch.setattr(cast("MlflowTracker", tracker).client, "log_batch", refuse)
            yield


class TensorboardBackend(Backend):
    def __init__(self, sweep: Path) -> None:
        self.sweep = sweep

    def open(self) -> Tracker:
        return opener("tensorboard")(self.sweep, "000", {"learning.rate": 0.5, "hidden": [8, 8]})

    def _values(self) -> Iterator[tuple[int, Any]]:
        from haps_search.records.tensorboard_tracker import read_events

        for event in read_events(self.sweep / "tensorboard" / "000"):
            yield from ((event.step, value) for value in event.summary.value)

    def points(self) -> list[Point]:
        scalars = [(step, v.tag, v.simple_value) for step, v in self._values() if v.HasField("simple_value")]
        return sorted(point for point in scalars if not point[1].startswith("summary/"))

    def ending(self) -> tuple[str, dict[str, float]]:
        status, summary = "", {}
        for _, value in self._values():
            if value.tag.startswith("status"):
                status = value.tensor.string_val[0].decode()
            elif value.tag.startswith("summary/"):
                summary[value.tag.removeprefix("summary/")] = value.simple_value
        return status, summary

    @contextmanager
    def broken(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(tracker, "_stream", FullDisk(cast("Any", tracker)._stream))
            yield


BACKENDS = ["jsonl", "tensorboard", "sqlite", "file", pytest.param("server", marks=pytest.mark.slow)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "jsonl":
        return JsonlBackend(tmp_path / "metrics.jsonl")
    if request.param == "tensorboard":
        return TensorboardBackend(tmp_path)
    stores = {"sqlite": "open_store", "file": "open_file_store", "server": "open_server_store"}
    return MlflowBackend(request.getfixturevalue(stores[request.param]))


def metrics_of(step: int) -> dict[str, float]:
    return {"reward": step / 8, "routes/adder share": 1.0}


def expected(steps: Sequence[int]) -> list[Point]:
    return sorted((step, name, value) for step in steps for name, value in metrics_of(step).items())


def log(tracker: Tracker, steps: Sequence[int]) -> None:
    for step in steps:
        tracker.log(step, metrics_of(step))


def test_every_step_is_kept_and_known_again(backend: Backend) -> None:
    tracker = backend.open()
    assert tracker.last_step == -1
    log(tracker, range(4))
    assert (tracker.last_step, tracker.missed) == (3, 0)
    assert backend.open().last_step == 3
    assert backend.points() == expected(range(4))


def test_a_resumed_run_repeats_steps_and_only_the_missing_arrive(backend: Backend) -> None:
    log(backend.open(), range(6))
    resumed = backend.open()
    log(resumed, range(3, 9))
    assert resumed.last_step == 8
    assert backend.points() == expected(range(9))


def test_a_step_logged_twice_is_the_callers_mistake(backend: Backend) -> None:
    tracker = backend.open()
    tracker.log(2, {"reward": 1.0})
    for step in (2, 1, -1):
        with pytest.raises(ValueError, match=f"step {step} was logged after step 2"):
            tracker.log(step, {"validation": 1.0})


def test_many_steps_at_once_all_arrive(backend: Backend) -> None:
    records = [Record(step, metrics_of(step), 1e9 + step) for step in range(1200)]
    tracker = backend.open()
    tracker.log_many(records)
    assert (tracker.last_step, tracker.missed) == (1199, 0)
    assert backend.points() == expected(range(1200))


def test_replay_sends_what_is_missing(backend: Backend) -> None:
    log(backend.open(), range(3))
    records = [Record(step, metrics_of(step), 1e9 + step) for step in range(7)]
    tracker = backend.open()
    assert replay(records, tracker) == 4
    assert replay(records, tracker) == 0
    assert backend.points() == expected(range(7))


def test_numbers_that_are_not_finite_do_not_stop_a_run(backend: Backend) -> None:
    tracker = backend.open()
    tracker.log(0, {"loss": math.nan, "gain": -math.inf, "reward": 0.5})
    assert tracker.missed == 0
    kept = {name: value for _, name, value in backend.points()}
    assert math.isnan(kept["loss"])
    assert kept["gain"] < -1e308
    assert kept["reward"] == 0.5


def test_a_backend_down_in_the_middle_loses_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = backend.open()
    log(tracker, range(3))
    with backend.broken(tracker, monkeypatch):
        log(tracker, range(3, 7))
        assert (tracker.missed, tracker.last_step) == (4, 2)
    log(tracker, [7])
    assert (tracker.missed, tracker.last_step) == (0, 7)
    assert backend.points() == expected(range(8))


def test_what_a_dead_process_owed_is_replayed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = backend.open()
    log(tracker, range(3))
    with backend.broken(tracker, monkeypatch):
        log(tracker, range(3, 7))
    resumed = backend.open()
    assert resumed.last_step == 2
    assert replay([Record(step, metrics_of(step), 1e9) for step in range(5)], resumed) == 2
    log(resumed, range(5, 8))
    assert backend.points() == expected(range(8))


def test_the_end_brings_what_was_missed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = backend.open()
    with backend.broken(tracker, monkeypatch):
        log(tracker, range(2))
    tracker.finish("finished", {"reward": 0.75})
    assert backend.points() == expected(range(2))
    assert backend.ending() == ("finished", {"reward": 0.75})


def test_a_backend_down_at_the_end_raises_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = backend.open()
    log(tracker, range(2))
    with backend.broken(tracker, monkeypatch):
        log(tracker, [2])
        tracker.finish("finished", {"reward": 0.75})
    assert tracker.missed >= 1
    assert backend.points() == expected(range(2))


def test_a_run_that_ended_can_go_on(backend: Backend) -> None:
    first = backend.open()
    log(first, range(2))
    first.finish("stopped", {"reward": 0.25})
    assert backend.ending()[0] == "stopped"
    second = backend.open()
    log(second, range(2, 4))
    second.finish("failed", {"reward": 0.5})
    assert backend.points() == expected(range(4))
    assert backend.ending() == ("failed", {"reward": 0.5})


def test_a_driver_that_closes_a_closed_run_again_changes_nothing(tmp_path: Path) -> None:
    backend, summary = TensorboardBackend(tmp_path), {"reward": 0.1, "cost": math.nan, "gain": math.inf}
    folder = tmp_path / "tensorboard" / "000"
    for _ in range(3):
        tracker = backend.open()
        log(tracker, range(2))
        tracker.finish("failed", summary, "boom")
        assert (tracker.missed, len(list(folder.iterdir()))) == (0, 1)
    (file,) = folder.iterdir()
    assert file.read_bytes().count(b"failed: boom") == 1
    backend.open().finish("finished", summary)
    assert backend.ending()[0] == "finished"
    log(backend.open(), range(3))
    backend.open().finish("finished", summary)
    assert backend.points() == expected(range(3))
    assert len(list(folder.iterdir())) == 4, "the end that came after another step is written down once more"


def test_a_record_torn_by_a_kill_is_left_out_and_logged_again(tmp_path: Path) -> None:
    backend = TensorboardBackend(tmp_path)
    log(backend.open(), range(3))
    (file,) = (tmp_path / "tensorboard" / "000").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    resumed = backend.open()
    assert resumed.last_step == 1
    log(resumed, range(4))
    assert backend.points() == expected(range(4))


def test_a_tracker_of_another_package_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point = EntryPoint("mine", f"{__name__}:made", GROUP)
    monkeypatch.setattr("haps_search.records.trackers.entry_points", lambda group: [point] if group == GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: made)
    assert isinstance(opener("mine")(tmp_path, "000", {}), JsonlTracker)
    with pytest.raises(ConfigError, match="did you mean tensorboard"):
        opener("tensorbord")


def made(sweep: Path, run: str, parameters: Mapping[str, Any]) -> Tracker:
    return JsonlTracker(sweep / f"{run}.jsonl")


def test_a_tracker_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haps_search.records.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'haps-search\[tensorboard\]'"):
        opener("tensorboard")
