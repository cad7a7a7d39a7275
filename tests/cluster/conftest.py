"""One Ray for the tests of this process: its own short temporary folder, logical CPUs and GPUs. What a test starts ends
with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import Started

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment

NAME = f"t{os.getpid()}"
# Ray makes its workers yield to everything else; on a machine where something else computes they would stand still.
os.environ.setdefault("RAY_worker_niceness", "0")
LOGICAL_GPUS = 3


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """The run fails where a process of it goes on, and ends it."""
    with processes.marked():
        yield
        left = processes.end_the_rest(processes.GONE_S)
    assert not left, "left running, and ended now:\n" + "\n".join(f"{pid} {name[:200]}" for pid, name in left.items())


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For a Ray of its own."""
    with processes.short_folder() as folder:
        yield folder


@pytest.fixture
def haps(short_folder: Path) -> Iterator[Callable[..., Started]]:
    """Start `haps` with a Ray in the short folder, from a working folder and with further variables."""
    begun: list[Started] = []

    def start(*arguments: str, folder: Path, **variables: str) -> Started:
        command = [sys.executable, "-m", "haps_search.cli.main", *arguments]
        environment = {**os.environ, "RAY_TMPDIR": str(short_folder), "COLUMNS": "200", **variables}
        begun.append(Started(command, environment, short_folder / f"printed-{len(begun)}.log", folder))
        return begun[-1]

    yield start
    for each in begun:
        each.kill()


@pytest.fixture(scope="session")
def running_ray() -> Iterator[None]:
    import ray

    with processes.short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", str(folder))
        ray.init(
            namespace=f"haps-{NAME}",
            num_cpus=4,
            num_gpus=LOGICAL_GPUS,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
            _system_config={"metrics_report_interval_ms": 1000},
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def on_ray(running_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[Any]]:
    """Open a session for an experiment on the running Ray; the profile's fields can be changed."""
    from haps_search.engines.cluster.session import session

    def opened(experiment: Experiment, **changes: Any) -> AbstractContextManager[Any]:
        described = {
            "name": "test",
            "candidate": {"cpus": 0.25},
            "router": {"cpus": 0.25},
            "trial": {"cpus": 0.0},
            "leases": {"deadline_s": 60},
            "worker_start_timeout_s": 900,
            **changes,
        }
        profile = ClusterProfile.model_validate(described)
        return session(NAME, experiment.candidates, profile, tmp_path_factory.mktemp("pool"))

    return opened
