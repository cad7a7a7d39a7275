"""A pool on this machine's own Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import ray

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.engines.cluster.session import Session, session

Opened = Callable[..., AbstractContextManager[Session]]
"""An experiment and fields of the profile -> a session with its candidates."""


@contextmanager
def opened(experiment: Experiment, **changes: Any) -> Iterator[Session]:
    """A Ray started for this, with logical CPUs for every router; Ray's files go where RAY_TMPDIR says."""
    profile = ClusterProfile.model_validate({"name": "bench", "logical_cpus": 4, **changes})
    with tempfile.TemporaryDirectory() as folder:
        name = f"bench-{os.getpid()}"
        with session(name, experiment.candidates, profile, Path(folder)) as live:
            yield live


@contextmanager
def bare_ray() -> Iterator[None]:
    """A Ray started for this, for actors that ask for no CPUs and objects of some GB."""
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=3_000_000_000, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    yield
    ray.shutdown()


def resources(threads: int) -> dict[str, Any]:
    """Fields of the profile: so many threads per candidate, one per router, and room for all in logical CPUs."""
    small = {"cpus": 0.25, "threads": 1}
    return {"candidate": {"cpus": 0.25, "threads": threads}, "router": small, "trial": {"cpus": 0.0}}


async def engines(live: Session, experiments: Sequence[Experiment]) -> list[RayEngine]:
    """A trial's engine per experiment, each with its own router actor."""
    return await asyncio.gather(*(RayEngine.start(e, live.profile, live.broker) for e in experiments))
