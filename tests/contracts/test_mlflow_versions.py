"""A sweep begun in a store that MLflow 3.4 made: refused with the way out, brought up to date, resumed."""

from __future__ import annotations

import gzip
import sqlite3
from pathlib import Path

import pytest

from haps_search.errors import TrackerError
from haps_search.records.mlflow_tracker import MlflowStore, Sweep, default_uri
from haps_search.records.mlflow_upgrade import upgrade

ASSET = Path(__file__).parents[1] / "assets" / "mlflow_3.4.db.gz"
"""Written by haps_search with mlflow 3.4.0: a sweep, a trial that finished, and one that was killed after step 3."""
OLDER = Sweep("older", 1.5)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "mlflow.db"
    file.write_bytes(gzip.decompress(ASSET.read_bytes()))
    return file


def opened(database: Path) -> MlflowStore:
    return MlflowStore(f"sqlite:///{database}", "haps_search")


def test_an_older_store_is_refused_with_the_way_out_and_left_alone(database: Path) -> None:
    before = database.read_bytes()
    with pytest.raises(TrackerError, match="made by another version of MLflow") as caught:
        opened(database)
    assert f"haps mlflow --upgrade --runs {database.parent}" in str(caught.value)
    assert database.read_bytes() == before


def test_a_sweep_goes_on_in_a_store_that_was_brought_up_to_date(database: Path) -> None:
    before = database.read_bytes()
    done = upgrade(database)
    assert done.kept is not None
    with sqlite3.connect(done.kept) as kept, sqlite3.connect(":memory:") as old:
        old.deserialize(before)
        for table in ("runs", "metrics", "params", "tags", "alembic_version"):
            rows = f"select * from {table} order by 1, 2, 3" if table != "alembic_version" else f"select * from {table}"
            assert kept.execute(rows).fetchall() == old.execute(rows).fetchall()
    store = opened(database)
    parent = store.sweep_run(OLDER, {}, {})
    trial = store.trial_tracker(OLDER, "001", {})
    assert trial.last_step == 3
    for step in range(1, 9):
        trial.log(step, {"reward": step / 8})
    trial.finish("finished", {"validation_reward": 0.5})
    runs = {run.info.run_name: run for run in store.client.search_runs([store.experiment_id])}
    assert set(runs) == {"older", "000", "001"}
    assert runs["001"].data.tags["mlflow.parentRunId"] == parent
    history = store.client.get_metric_history(runs["001"].info.run_id, "reward")
    assert [(m.step, m.value) for m in history] == [(s, s / 8) for s in range(1, 9)]
    assert upgrade(database).kept is None, "a second time there is nothing to do"


def test_an_upgrade_that_breaks_leaves_the_store_as_it_was(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(engine: object) -> None:
        raise OSError(28, "No space left on device")

    before = database.read_bytes()
    monkeypatch.setattr("mlflow.store.db.utils._upgrade_db", broken)
    with pytest.raises(TrackerError, match=r"No space left.*it is as it was"):
        upgrade(database)
    assert database.read_bytes() == before


def test_where_there_is_no_store_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(TrackerError, match="no MLflow store here"):
        upgrade(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_later_version_is_refused_too(database: Path) -> None:
    with sqlite3.connect(database) as later:
        later.execute("update alembic_version set version_num = 'ffffffffffff'")
    later.close()
    with pytest.raises(TrackerError, match="another version of MLflow"):
        opened(database)
    with pytest.raises(TrackerError, match="a later MLflow needs that version"):
        upgrade(database)


def test_the_default_store_is_a_file_under_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
