"""An MLflow store per test: the tables are made once, each test gets a copy of the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from haps_search.records.mlflow_tracker import MlflowStore


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite file with MLflow's tables and no experiment of ours."""
    from haps_search.records.mlflow_tracker import _create_database

    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    _create_database(path)
    return path


@pytest.fixture
def open_store(mlflow_database: Path, tmp_path: Path) -> Callable[[], MlflowStore]:
    """Opens this test's store; call it again for what a new process would see."""
    from haps_search.records.mlflow_tracker import MlflowStore, default_uri

    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copyfile(mlflow_database, runs / "mlflow.db")
    return lambda: MlflowStore(default_uri(runs), "contract")
