"""One Ray for the tests: its own short temporary folder, logical CPUs and GPUs, ended with the process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    # Unix sockets allow about 100 characters, and pytest's own folders are longer than that.
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    (folder / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = str(folder)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_ray(ray_folder: Path, tmp_path: Path) -> Callable[..., AbstractContextManager[Any]]:
    """Open a session for an experiment; the profile's fields can be changed."""
    from haps_search.engines.cluster.session import session

    def opened(experiment: Experiment, **changes: Any) -> AbstractContextManager[Any]:
        described = {
            "name": "test",
            "candidate": {"cpus": 0.25},
            "router": {"cpus": 0.25},
            "trial": {"cpus": 0.0},
            "logical_cpus": 4,
            "leases": {"deadline_s": 60},
            "worker_start_timeout_s": 120,
            **changes,
        }
        profile = ClusterProfile.model_validate(described)
        return session(f"t{os.getpid()}", experiment.candidates, profile, tmp_path / "pool")

    return opened
