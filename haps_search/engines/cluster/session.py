"""One driver's session on Ray: the cluster, the broker and the pool, started together and ended together."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.failures import unwrapped
from haps_search.engines.cluster.pool import Pool, seats
from haps_search.errors import ConfigError, PoolError

_log = logging.getLogger(__name__)
BROKER = "broker"
LEAVING_S = 15.0
"""How long workers may take to leave at the end of a session; they are idle by then."""

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
}


@dataclass(frozen=True)
class Session:
    """Handles of a running session; actors are looked up by name in `namespace`."""

    namespace: str
    profile: ClusterProfile
    broker: Any

    def wait_for_candidates(self) -> None:
        """Until every candidate is loaded. Raises CandidateError where one cannot be."""
        _call(self.broker.tables)

    def ended(self) -> bool:
        """Whether the pool is gone for good."""
        try:
            return self.status()["ended"] is not None
        except PoolError:
            return True

    def status(self) -> dict[str, Any]:
        """Counts, queues and workers of the broker."""
        return _call(self.broker.status)


@contextmanager
def session(
    name: str, candidates: Sequence[CandidateConfig], profile: ClusterProfile, folder: Path
) -> Iterator[Session]:
    """Open a session named `name`, logs and Train's own files under `folder` (absolute).

    Raises:
        ConfigError: the cluster lacks what the profile asks for, with the numbers.
    """
    namespace = f"haps-{name}"
    started = _connect(profile, namespace, folder)
    try:
        require(candidates, profile)
        broker = _start_broker(candidates, profile)
        pool = Pool(candidates, profile, BROKER, namespace)
        pool.start(folder)
        try:
            yield Session(namespace, profile, broker)
        finally:
            _end(broker, pool)
    finally:
        if started:
            ray.shutdown()


def _end(broker: Any, pool: Pool) -> None:
    """Workers leave before Ray does, also after an error: Ray ends a process at once, its error unsaid, where a thread
    (Train's, of the pool) calls it after its shutdown.
    """
    try:
        _call(broker.fail_all, "the session ended")
    except PoolError:
        _log.warning("the broker was gone before the session ended")
    pool.join(LEAVING_S)
    ray.kill(broker)


def require(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> None:
    """Refuse at once what could never be placed. Raises ConfigError."""
    there = ray.cluster_resources()
    workers = len(seats(candidates, profile))
    problems = []
    for kind, per_candidate, per_router in (
        ("GPU", profile.candidate.gpus, profile.router.gpus),
        ("CPU", profile.candidate.cpus, profile.router.cpus + profile.trial.cpus),
    ):
        needed, found = workers * per_candidate + per_router, there.get(kind, 0.0)
        if needed > found + 1e-9:
            problems.append(
                f"profile {profile.name} needs {needed:g} {kind} ({workers} candidate workers x {per_candidate:g} "
                f"+ {per_router:g} for one trial), this cluster has {found:g}: use another profile "
                "(experiment.engine.profile), fewer candidates or replicas, or a larger cluster"
            )
    if problems:
        raise ConfigError(problems)


def _connect(profile: ClusterProfile, namespace: str, folder: Path) -> bool:
    """Start or join Ray; True where this driver is the one to leave it again."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        if ray.get_runtime_context().namespace != namespace:
            raise ConfigError(f"this process is connected to Ray in another namespace than {namespace}")
        return False
    folder.mkdir(parents=True, exist_ok=True)
    joins = profile.address is not None or "RAY_ADDRESS" in os.environ
    options: dict[str, Any] = {"address": profile.address} if profile.address else {}
    if not joins:
        # Said outright, since Ray would otherwise join whatever else runs on this machine.
        options |= {"address": "local", "num_cpus": profile.logical_cpus, "include_dashboard": False}
    ray.init(
        namespace=namespace,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _path()}},
        **options,
    )
    return True


def _path() -> str:
    """The user's own reward functions lie where the driver was started, and trials have other working folders."""
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])


def _start_broker(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> Any:
    counts = {c.name: profile.replicas.get(c.name, 1) for c in candidates}
    # An actor without CPUs may land on a node that is lost next; the driver's node is the one that must live.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(Broker)
        .options(name=BROKER, num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(counts, profile.leases, profile.worker_start_timeout_s)
    )


def _call(method: Any, *arguments: Any) -> Any:
    try:
        return ray.get(method.remote(*arguments))
    except ray.exceptions.RayError as error:
        raise unwrapped(error) from error
