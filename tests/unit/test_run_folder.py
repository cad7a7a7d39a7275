"""A run's folder outlives the version that wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sweeps import a_study

from haps_search.errors import CheckpointError
from haps_search.records.checkpoint import CheckpointStore
from haps_search.records.run_folder import RunFolder, identity
from haps_search.types import Snapshot

SNAPSHOT = Snapshot({"router.w": torch.ones(2)}, {"version": 1})


def written_by_an_older_version(folder: Path, **changes: object) -> None:
    """A checkpoint whose configuration knows nothing of `learning.cost_weight`."""
    config = identity(a_study().experiment)
    del config["learning"]["cost_weight"]
    config["run"].update(changes)
    CheckpointStore(folder / "checkpoints", json.loads(json.dumps(config))).save(1, SNAPSHOT, {"step": 1}, best=True)


def test_fields_that_came_later_stand_at_their_defaults(tmp_path: Path) -> None:
    written_by_an_older_version(tmp_path)
    found = RunFolder(tmp_path, a_study().experiment).best()
    assert found is not None
    assert torch.equal(found.snapshot.tensors["router.w"], torch.ones(2))


def test_a_later_field_with_another_value_is_another_configuration(tmp_path: Path) -> None:
    written_by_an_older_version(tmp_path)
    costly = a_study(experiment={"learning": {"cost_weight": 2.0}}).experiment
    with pytest.raises(CheckpointError, match=r"learning\.cost_weight: stored 0\.0, now 2\.0"):
        RunFolder(tmp_path, costly).best()


def test_what_this_version_refuses_is_shown_as_it_was_stored(tmp_path: Path) -> None:
    written_by_an_older_version(tmp_path, forgotten=3)
    with pytest.raises(CheckpointError, match=r"run\.forgotten: stored 3, now absent"):
        RunFolder(tmp_path, a_study().experiment).best()
