"""An MLflow store per test: the tables are made once, each test gets a copy of the file."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
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


@pytest.fixture
def open_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], MlflowStore]:
    """A folder of files, which MLflow keeps for those who have one."""
    from haps_search.records.mlflow_tracker import MlflowStore

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return lambda: MlflowStore((tmp_path / "mlruns").as_uri(), "contract")


@pytest.fixture(scope="session")
def mlflow_server(mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An `mlflow server` of this process over an sqlite file."""
    from haps_search.verbs.mlflow import Server

    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(mlflow_database, folder / "mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(f"sqlite:///{folder / 'mlflow.db'}", folder, port)
    yield server.url
    server.stop()


@pytest.fixture
def open_server_store(mlflow_server: str, request: pytest.FixtureRequest) -> Callable[[], MlflowStore]:
    """An experiment of this test's own."""
    from haps_search.records.mlflow_tracker import MlflowStore

    return lambda: MlflowStore(mlflow_server, request.node.name)
