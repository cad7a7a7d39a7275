"""One Ray for the tests of this process: its own short temporary folder, logical CPUs and GPUs."""

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

NAME = f"t{os.getpid()}"
LOGICAL_GPUS = 3


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A Ray of its own: unix sockets allow about 100 characters, and pytest's folders are longer than that."""
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    (folder / "ray").mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def running_ray() -> Iterator[None]:
    import ray

    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", str(folder))
        ray.init(
            namespace=f"haps-{NAME}",
            num_cpus=4,
            num_gpus=LOGICAL_GPUS,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_ray(running_ray: None, tmp_path: Path) -> Callable[..., AbstractContextManager[Any]]:
    """Open a session for an experiment on the running Ray; the profile's fields can be changed."""
    from haps_search.engines.cluster.session import session

    def opened(experiment: Experiment, **changes: Any) -> AbstractContextManager[Any]:
        described = {
            "name": "test",
            "candidate": {"cpus": 0.25},
            "router": {"cpus": 0.25},
            "trial": {"cpus": 0.0},
            "leases": {"deadline_s": 60},
            "worker_start_timeout_s": 120,
            **changes,
        }
        profile = ClusterProfile.model_validate(described)
        return session(NAME, experiment.candidates, profile, tmp_path / "pool")

    return opened
