"""Checkpoints: exact, complete or absent, and refused with the reason where they do not fit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import wait_for

from haps_search.errors import CheckpointError
from haps_search.records import sealed
from haps_search.records.checkpoint import CheckpointStore
from haps_search.records.fingerprint import differences, fingerprint
from haps_search.records.sealed import DamagedCheckpoint
from haps_search.types import Snapshot

ASSET = Path(__file__).parents[1] / "assets" / "checkpoint_v1"
CONFIG: dict[str, Any] = {
    "run": {"seed": 1, "steps": 10},
    "candidates": [{"name": "adder"}],
    "learning": {"rate": 1e-3, "clip": None},
}


def make_snapshot(value: float = 1.0) -> Snapshot:
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3) + value
    tensors = {
        "half": torch.tensor([value / 3, float("nan"), float("-inf")], dtype=torch.bfloat16),
        "double": torch.tensor([value / 3, 1e-300], dtype=torch.float64),
        "ids": torch.tensor([2**53 + 1, -1]),
        "rng": torch.arange(16, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(value),
        "empty": torch.zeros(0, 4),
        "base": base,
        "view": base.T,
        "tied": base,
        "weight": torch.nn.Parameter(base[1]),
    }
    return Snapshot(tensors, {"version": 7, "value": value})


def make_store(folder: Path, keep: int = 2, **changes: Any) -> CheckpointStore:
    return CheckpointStore(folder, {**CONFIG, **changes}, keep)


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    store, snapshot = make_store(tmp_path), make_snapshot()
    path = store.save(5, snapshot, {"position": 160, "gain": float("-inf")})
    loaded = make_store(tmp_path).latest()
    assert loaded is not None
    assert (loaded.step, loaded.path, loaded.skipped) == (5, path, ())
    assert loaded.state == {"position": 160, "gain": float("-inf")}
    assert loaded.snapshot.state == {"version": 7, "value": 1.0}
    assert loaded.snapshot.tensors.keys() == snapshot.tensors.keys()
    for name, tensor in snapshot.tensors.items():
        torch.testing.assert_close(loaded.snapshot.tensors[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    store = make_store(tmp_path / "absent")
    assert (store.latest(), store.best(), store.steps()) == (None, None, [])
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3; steps there: none"):
        store.load(3)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=2)
    for step in range(1, 7):
        store.save(step, make_snapshot(step), {}, best=step in (1, 2))
    assert store.steps() == [2, 5, 6]
    best = store.best()
    assert best is not None
    assert best.snapshot.state["value"] == 2
    assert names(tmp_path) == ["best.json", "step-000002", "step-000005", "step-000006"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(4, make_snapshot(1), {"n": 1}, best=True)
    store.save(4, make_snapshot(2), {"n": 2})
    best = store.best()
    assert best is not None
    assert (best.state["n"], best.snapshot.tensors["scalar"].item()) == (2, 2.0)
    assert names(tmp_path) == ["best.json", "step-000004"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_a_changed_file_is_refused_with_both_digests(tmp_path: Path, file: str) -> None:
    store = make_store(tmp_path)
    store.save(1, make_snapshot(), {})
    path = store.save(2, make_snapshot(), {}) / file
    expected = json.loads((path.parent / "digests.json").read_text())[file]
    flip_byte(path)
    with pytest.raises(DamagedCheckpoint) as caught:
        store.latest()
    got = sealed._digest(path)
    assert all(part in str(caught.value) for part in (str(path), expected, got, "skip_damaged"))


def test_damage_can_be_passed_over_and_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=3)
    paths = [store.save(step, make_snapshot(step), {}) for step in (1, 2, 3)]
    whole = (paths[2] / "tensors.safetensors").read_bytes()
    (paths[2] / "tensors.safetensors").write_bytes(whole[: len(whole) // 2])
    (paths[1] / "digests.json").unlink()
    loaded = store.latest(skip_damaged=True)
    assert loaded is not None
    assert (loaded.step, len(loaded.skipped)) == (1, 2)
    assert "step-000003" in loaded.skipped[0]
    assert "step-000002" in loaded.skipped[1]
    store.save(2, make_snapshot(), {})
    assert store.steps() == [1, 2], "the damaged step 3 is of an abandoned course"


def test_nothing_intact_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (store.save(1, make_snapshot(), {}) / "tensors.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"no such file(.|\n)*start from step 0"):
        store.latest(skip_damaged=True)


def test_an_intact_later_checkpoint_is_not_overtaken(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(50, make_snapshot(), {})
    with pytest.raises(CheckpointError, match=r"step-000050: lies above step 25"):
        store.save(25, make_snapshot(), {})
    assert store.steps() == [50]


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    make_store(tmp_path).save(1, make_snapshot(), {})
    other = make_store(tmp_path, run={"seed": 2, "steps": 10}, candidates=[{"name": "sorter"}])
    with pytest.raises(CheckpointError) as caught:
        other.latest(skip_damaged=True)
    assert 'candidates.0.name: stored "adder", now "sorter"' in str(caught.value)
    assert "run.seed: stored 1, now 2" in str(caught.value)
    assert "steps" not in str(caught.value).split("Set them back")[0].split("Differences")[1]


def test_fingerprints_ignore_order_and_see_every_value() -> None:
    assert fingerprint({"a": (1, 2), "b": {}}) == fingerprint({"b": {}, "a": [1, 2]})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert differences({"a": {}, "b": [1]}, {"b": [1, None]}) == [
        "a: stored {}, now absent",
        "b.1: stored absent, now null",
    ]


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = make_store(tmp_path).save(1, make_snapshot(), {})
    head = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**head, "format": 2}))
    digests = json.loads((path / "digests.json").read_text())
    digests["state.json"] = sealed._digest(path / "state.json")
    (path / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(CheckpointError, match=r"format 2.*reads format 1"):
        make_store(tmp_path).latest()


def test_a_damaged_pointer_names_the_way_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(1, make_snapshot(), {}, best=True)
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"best\.json: damaged.*one of the steps 1"):
        store.best()


def test_a_checkpoint_of_format_1_still_loads(tmp_path: Path) -> None:
    shutil.copytree(ASSET, tmp_path / "v1")
    store = make_store(tmp_path / "v1")
    loaded = store.best()
    assert loaded is not None
    assert (loaded.step, loaded.state) == (3, {"position": 96, "rng": [3, 1, 4]})
    assert loaded.snapshot.state == {"version": 3}
    weight = loaded.snapshot.tensors["weight"]
    assert weight.dtype == torch.bfloat16
    assert weight.tolist() == [[0.5, -1.25], [3.0, 0.0]]
    assert loaded.snapshot.tensors["count"].tolist() == [2**53 + 1]


class Crash(BaseException):
    """Stands for a kill: nothing catches it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """The `moment`-th change on disk never happens, nor anything after it."""
    count = iter(range(10_000))

    def guard(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(count) >= moment:
                raise Crash
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    for name in ("rename", "replace", "mkdir", "write_text"):
        guard(Path, name)
    guard(shutil, "rmtree")
    guard(os, "fsync")


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_a_stop_between_any_two_changes_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    step = 2 if again else 3
    for before in (1, 2):
        make_store(tmp_path / "before").save(before, make_snapshot(before), {"n": before}, best=True)
    for moment in range(100):
        folder = tmp_path / str(moment)
        shutil.copytree(tmp_path / "before", folder)
        with monkeypatch.context() as patch:
            crash_at(patch, moment)
            try:
                make_store(folder).save(step, make_snapshot(9), {"n": 9}, best=True)
            except Crash:
                crashed = True
            else:
                crashed = False
        store = make_store(folder)
        latest, best = store.latest(), store.best()
        assert latest is not None
        assert best is not None
        assert (latest.step, latest.state["n"]) in {(2, 2), (step, 9)}
        assert best.step == latest.step
        assert latest.snapshot.tensors["scalar"].item() == latest.state["n"]
        store.save(4, make_snapshot(4), {})
        assert names(folder) == ["best.json", f"step-{best.step:06d}", "step-000004"]
        if not crashed:
            assert moment > 8
            return
    pytest.fail("a save of a hundred changes")


def write_for_ever(folder: Path) -> None:
    torch.set_num_threads(1)
    store = make_store(folder)
    for step in range(store.steps()[-1], 10**6):
        store.save(step, make_snapshot(step), {"n": step}, best=step % 3 == 0)


def kill_at_random(writer: Any, store: CheckpointStore, pause: float) -> None:
    """Once the writer has finished a save of its own, at some moment of a later one."""
    before = store.steps()[-1]
    try:
        wait_for(lambda: store.steps()[-1] != before or not writer.is_alive(), "no save was finished", every_s=0.001)
        time.sleep(pause)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()


def test_kill_9_at_any_moment_leaves_a_loadable_latest(tmp_path: Path) -> None:
    make_store(tmp_path).save(0, make_snapshot(0), {"n": 0}, best=True)
    moments, fork = random.Random(0), multiprocessing.get_context("fork")
    reached = [0]
    for _ in range(12):
        writer = fork.Process(target=write_for_ever, args=(tmp_path,))
        writer.start()
        kill_at_random(writer, make_store(tmp_path), moments.uniform(0, 0.03))
        store = make_store(tmp_path)
        latest, best = store.latest(), store.best()
        assert latest is not None
        assert best is not None
        assert latest.state["n"] == latest.step == latest.snapshot.tensors["scalar"].item()
        assert best.step % 3 == 0
        assert latest.step - best.step < 3, "the best was lost"
        assert latest.step > reached[-1], "a finished save was lost"
        reached.append(latest.step)
    make_store(tmp_path).save(reached[-1] + 1, make_snapshot(), {})
    assert all("." not in name for name in names(tmp_path) if name != "best.json")


def test_leftovers_of_the_living_are_not_touched(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(1, make_snapshot(), {})
    living = tmp_path / f"step-000009.tmp-{os.getppid()}"
    living.mkdir()
    store.save(2, make_snapshot(), {})
    assert living.is_dir()
    assert store.steps() == [1, 2]


def test_a_damaged_table_of_digests_costs_its_checkpoint_and_not_the_next_save(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fitted = {"vocabulary": torch.arange(4)}
    store.save(1, replace(make_snapshot(), fitted=fitted), {})
    (tmp_path / "step-000001" / sealed.DIGESTS).write_text("{")
    store.save(2, replace(make_snapshot(2.0), fitted=fitted), {})
    found = store.latest(skip_damaged=True)
    assert found is not None
    assert found.step == 2
    assert torch.equal(found.snapshot.fitted["vocabulary"], fitted["vocabulary"])
