"""Studies stored before rewards named their normaliser mean `v1`; what users write means `default`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from haps_search.config.load import dump, fingerprint, load_study, parse_study
from haps_search.config.stored import as_stored
from haps_search.config.sweep import Study
from haps_search.errors import CheckpointError, ConfigError
from haps_search.records.checkpoint import CheckpointStore
from haps_search.records.parts import same_plan
from haps_search.records.run_folder import RunFolder, identity
from haps_search.sweep.events import SweepStarted, TrialSuggested, encode
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.settings import experiment_of
from haps_search.types import Snapshot

REWARDS = [{"type": "f1"}, {"type": "exact"}]
WRITTEN: dict[str, Any] = {
    "name": "mine",
    "experiment": {
        "task": {"type": "qa", "train": "/a.jsonl", "validation": "/b.jsonl", "reward": {"type": "f1"}},
        "candidates": [{"name": "adder", "source": {"type": "zoo", "name": "adder"}}],
    },
    "space": {
        "task.reward": {"type": "choice", "values": REWARDS},
        "learning.kl_weight": {"type": "choice", "values": [0.0, 0.1], "when": {"task.reward": [REWARDS[1]]}},
    },
}


def _written(folder: Path, **reward: Any) -> Study:
    described = json.loads(json.dumps(WRITTEN))
    described["experiment"]["task"]["reward"] |= reward
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(described))
    return load_study(file)


def _early(value: Any) -> Any:
    """As an earlier version wrote it: without the keys of this one."""
    if isinstance(value, dict):
        later = {"normaliser", "answer"} if value.get("type") in ("f1", "exact", "regex", "multiple_choice") else set()
        return {key: _early(each) for key, each in value.items() if key not in later}
    return [_early(each) for each in value] if isinstance(value, list) else value


def test_what_a_user_writes_is_compared_by_default(tmp_path: Path) -> None:
    assert _written(tmp_path).experiment.task.reward.normaliser == "default"  # type: ignore[union-attr]


def _journal(folder: Path, study: Study) -> Journal:
    started = json.loads(encode(SweepStarted(_early(dump(study)), fingerprint(study), "0.1", 1.0, format=1)))
    suggested = encode(TrialSuggested(0, {"task.reward": {"type": "exact"}}, 3))
    (folder / "journal.jsonl").write_text(f"{json.dumps(started)}\n{suggested}\n")
    return Journal(folder)


def test_a_stored_sweep_goes_on_with_v1_in_study_space_and_trials(tmp_path: Path) -> None:
    journal = _journal(tmp_path, _written(tmp_path))
    study = journal.study()
    assert "normaliser" not in journal.file.read_text()
    assert study.experiment.task.reward.normaliser == "v1"  # type: ignore[union-attr]
    space = dump(study)["space"]
    assert [value["normaliser"] for value in space["task.reward"]["values"]] == ["v1", "v1"]
    assert space["learning.kl_weight"]["when"]["task.reward"][0]["normaliser"] == "v1"
    (trial,) = journal.trials()
    assert experiment_of(study, trial).task.reward.normaliser == "v1"  # type: ignore[union-attr]


def test_resumed_it_is_written_down_and_stays(tmp_path: Path) -> None:
    stored = _journal(tmp_path, _written(tmp_path)).study()
    opened = open_sweep(tmp_path, parse_study(dump(stored)), resume=True)
    try:
        assert opened.study() == stored
    finally:
        opened.close()
    assert Journal(tmp_path).study() == stored
    assert [trial.parameters["task.reward"]["normaliser"] for trial in Journal(tmp_path).trials()] == ["v1"]


def test_the_same_file_today_is_another_sweep_and_says_so(tmp_path: Path) -> None:
    _journal(tmp_path, _written(tmp_path))
    with pytest.raises(ConfigError, match=r'task\.reward\.normaliser: begun with "v1", now "default"'):
        open_sweep(tmp_path, _written(tmp_path), resume=False)


def test_a_new_sweep_keeps_what_its_arms_and_space_leave_to_the_default(tmp_path: Path) -> None:
    study = _written(tmp_path)
    opened = open_sweep(tmp_path / "new", study, resume=False)
    opened.close()
    assert Journal(tmp_path / "new").study() == study
    trial = TrialSuggested(0, {"task.reward": {"type": "exact"}}, 3)
    Journal(tmp_path / "new").append(trial)
    (found,) = Journal(tmp_path / "new").trials()
    assert experiment_of(study, found).task.reward.normaliser == "default"  # type: ignore[union-attr]


def test_a_stored_run_and_its_checkpoints_mean_v1(tmp_path: Path) -> None:
    stored = _written(tmp_path, normaliser="v1").experiment
    run, snapshot = tmp_path / "run", Snapshot({"w": torch.ones(2)}, {})
    CheckpointStore(run / "checkpoints", _early(identity(stored))).save(1, snapshot, {"step": 1}, best=True)
    (run / "experiment.json").write_text(json.dumps(_early(stored.model_dump(mode="json"))))
    assert RunFolder.experiment_of(run) == stored
    found = RunFolder(run, stored).best()
    assert found is not None
    assert found.step == 1
    with pytest.raises(CheckpointError, match=r'normaliser: stored "v1", now "default"'):
        RunFolder(run, _written(tmp_path).experiment).best()


def test_a_table_that_was_begun_goes_on(tmp_path: Path) -> None:
    task = _written(tmp_path, normaliser="v1").experiment.model_dump(mode="json")["task"]
    same_plan(tmp_path, {"task": _early(task), "seed": 0}, {"task": task, "seed": 0})
    today = _written(tmp_path).experiment.model_dump(mode="json")["task"]
    with pytest.raises(ConfigError, match=r'normaliser: stored "v1", now "default"'):
        same_plan(tmp_path, {"task": _early(task), "seed": 0}, {"task": today, "seed": 0})


def test_only_rewards_are_filled_in() -> None:
    value = {"reward": {"type": "numeric"}, "x": {"type": "qa"}, "y": [{"type": "regex", "pattern": "z"}], "z": 1}
    assert as_stored(value) == {
        "reward": {"type": "numeric"},
        "x": {"type": "qa", "reward": {"type": "f1", "normaliser": "v1"}},
        "y": [{"type": "regex", "pattern": "z", "normaliser": "v1"}],
        "z": 1,
    }
