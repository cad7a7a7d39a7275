"""One driver's session on Ray: the cluster, the broker and the pool, started together and ended together."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from haps_search.candidates.endpoint import require
from haps_search.config.candidates import CandidateConfig, endpoints_of
from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.failures import got, refused
from haps_search.engines.cluster.meters import BrokerMeters
from haps_search.engines.cluster.pool import Pool
from haps_search.engines.cluster.protocol import BROKER
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.engines.cluster.watch import Watch, alive, ended_by
from haps_search.engines.placement.seating import crews, endpoint_misfits
from haps_search.errors import ConfigError, PoolError
from haps_search.sweep.leaving import SIGTERM, unfinished
from haps_search.tasks.build import build_task

if TYPE_CHECKING:
    from haps_search.engines.local import LocalEngine

_log = logging.getLogger(__name__)
LEFTOVER_S = 60.0
MOST_CALLS = 10_000
"""So many calls of the broker may be open at once. Each trial and each worker has one or two, whatever is queued; those
beyond wait for a poll to end."""
CALL_S = 60.0
"""How long a call of the broker may take; its polls end long before."""
PATIENCE_S = 30.0
"""How long candidates may load without a word."""
LOOK_S = 1.0
LEAVING_S, KILLED_S = 15.0, 15.0
"""How long workers may take to leave at the end of a session; they are idle by then."""

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is ours: trials save their step.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
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
    watch: Watch | None = None

    def wait_for_candidates(
        self, say: Callable[[str], None] = _log.info, leaves: Callable[[], bool] = lambda: False
    ) -> None:
        """Until every candidate is loaded, or `leaves` says so; what is still waited for is said every `PATIENCE_S`.

        Raises CandidateError where one cannot be.
        """
        said = time.monotonic()
        while not leaves() and _call(self.broker.tables) is None:
            if time.monotonic() - said > PATIENCE_S:
                said = time.monotonic()
                for line in (*self.waits(), *(self.watch.loading if self.watch is not None else ())):
                    say(line)

    def ended(self) -> bool:
        """Whether the pool is gone for good."""
        return self.ended_by() is not None

    def ended_by(self) -> str | None:
        """Why the pool is gone for good, None while it is there."""
        return self.gone or ended_by(self.status)

    @property
    def gone(self) -> str | None:
        """The same as the watch knows it, without asking the broker: at most a second late."""
        return self.watch.ended if self.watch is not None else None

    def waits(self) -> tuple[str, ...]:
        """What trials wait for now, a line each: candidates that lost their worker and have none yet."""
        return self.watch.waits if self.watch is not None else ()

    def status(self) -> dict[str, Any]:
        """Counts, queues and workers of the broker."""
        return _call(self.broker.status)

    async def engine(self, experiment: Experiment) -> RayEngine | LocalEngine:
        """A router of its own over the session's candidates. Raises CandidateError, ConfigError, PoolError."""
        return await RayEngine.start(experiment, self.profile, self.broker)


class TableSession(Session):
    """A session without a pool: what the candidates say stands in a table, and each trial has it at hand."""

    def wait_for_candidates(
        self, say: Callable[[str], None] = _log.info, leaves: Callable[[], bool] = lambda: False
    ) -> None:
        return None

    def ended_by(self) -> str | None:
        return None

    def status(self) -> dict[str, Any]:
        return {"ended": None}

    async def engine(self, experiment: Experiment) -> LocalEngine:
        from haps_search.engines.local import LocalEngine  # torch

        return LocalEngine.build(experiment, build_task(experiment.task))


@contextmanager
def session(
    name: str,
    candidates: Sequence[CandidateConfig],
    profile: ClusterProfile,
    folder: Path,
    say: Callable[[str], None] = _log.info,
    leaves: Callable[[], bool] = lambda: False,
) -> Iterator[Session]:
    """Open a session named `name`, logs and Train's own files under `folder` (absolute).

    Raises:
        ConfigError: the cluster lacks what the profile asks for, with the numbers; one that is joined has had
            `worker_start_timeout_s` to grow. CandidateError: an endpoint lacks its package or its key here.
    """
    namespace, profile = f"haps-{name}", profile.with_endpoints(endpoints_of(candidates))
    if misfits := endpoint_misfits(candidates, profile):
        raise ConfigError(misfits)
    if not _joins(profile):  # another machine has an environment of its own, and its workers look there
        require(candidates)
    started, whole = connect(profile, namespace, folder), True
    try:
        pooled = [c for c in candidates if c.source.type != "table"]
        room_for(pooled, profile, say, leaves)
        if pooled:
            broker, pool = _start_broker(pooled, profile), Pool(pooled, profile, BROKER, namespace)
            watch = Watch(broker, pool, profile)
            pool.start(folder)
            watch.start()
            try:
                yield Session(namespace, profile, broker, watch)
            finally:
                whole = _end(broker, pool, watch)
        else:
            yield TableSession(namespace, profile, None)
    finally:
        if started and whole:
            ray.shutdown()


def _end(broker: Any, pool: Pool, watch: Watch) -> bool:
    """Workers leave before Ray does, also after an error: Ray ends a process at once, its error unsaid, where a thread
    (Train's, of the pool) calls it after its shutdown. False where a thread is left, so Ray ends with the process.
    """
    stopped = watch.stop()
    try:
        _call(broker.fail_all, "the session ended")
    except (PoolError, ray.exceptions.RayError):
        _log.warning("the broker was gone before the session ended")
    left = pool.join(LEAVING_S)
    if left and ray.is_initialized():
        pool.give_up()
        left = pool.join(KILLED_S)
    ray.kill(broker)
    return stopped and not left


def name_here(wanted: str) -> str:
    """A name for a session in this process: that of the Ray it is connected to, where it is."""
    return ray.get_runtime_context().namespace.removeprefix("haps-") if ray.is_initialized() else wanted


def room_for(
    candidates: Sequence[CandidateConfig],
    profile: ClusterProfile,
    say: Callable[[str], None],
    leaves: Callable[[], bool],
) -> None:
    """Wait for what a cluster lacks now: a spot node may be on its way. A Ray started here grows no more, and what it
    lacks is refused at once. Raises ConfigError."""
    joined = _joins(profile)
    until, said = time.monotonic() + profile.worker_start_timeout_s, -PATIENCE_S
    while problems := lacking(candidates, profile):
        if not joined or leaves() or time.monotonic() > until:
            raise ConfigError(problems)
        if time.monotonic() - said >= PATIENCE_S:
            said = time.monotonic()
            say(f"waiting for the cluster to grow, {until - said:.0f} s at most: {'; '.join(problems)}")
        time.sleep(LOOK_S)


def lacking(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> list[str]:
    """What could not be placed on the nodes that live now, in words."""
    there, problems = ray.cluster_resources(), []
    pool, router, trial = crews(candidates, profile), profile.router, profile.trial
    for kind, shares, per_trial in (
        ("GPU", [(len(c.seats), c.resources.gpus) for c in pool], router.gpus + trial.gpus),
        ("CPU", [(len(c.seats), c.resources.cpus) for c in pool], router.cpus + trial.cpus),
    ):
        needed, found = sum(count * each for count, each in shares) + per_trial, there.get(kind, 0.0)
        if needed > found + 1e-9:
            workers = " + ".join(f"{count} candidate workers x {each:g}" for count, each in shares)
            problems.append(
                f"profile {profile.name} needs {needed:g} {kind} ({workers} + {per_trial:g} for one trial), "
                f"this cluster has {found:g}: use another profile (experiment.engine.profile), fewer candidates or "
                "replicas, or a larger cluster"
            )
    nodes = alive()
    for crew in pool:
        if not any(node.holds(crew.resources) for node in nodes):
            names = ", ".join(dict.fromkeys(c.name for c in crew.seats))
            problems.append(
                f"profile {profile.name}: a worker of {names} needs {crew.resources.gpus:g} GPUs and "
                f"{crew.resources.cpus:g} CPUs on one node, and none of {len(nodes)} has so many"
            )
    return problems


def _joins(profile: ClusterProfile) -> bool:
    """Whether Ray is there already, and is none of this process's own."""
    return profile.address is not None or "RAY_ADDRESS" in os.environ


def connect(profile: ClusterProfile, namespace: str, folder: Path, temp: Path | None = None) -> bool:
    """Start or join Ray; True where this driver is the one to leave it again. A Ray started here has its files in
    `temp`, where one is given.

    Raises:
        ConfigError: another namespace, or a cluster that does not take our token. PoolError: one not to be reached.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        if ray.get_runtime_context().namespace != namespace:
            raise ConfigError(f"this process is connected to Ray in another namespace than {namespace}")
        return False
    folder.mkdir(parents=True, exist_ok=True)
    joins = _joins(profile)
    options: dict[str, Any] = {"address": profile.address} if profile.address else {}
    if not joins:
        # Said outright, since Ray would otherwise join whatever else runs on this machine.
        options |= {"address": "local", "num_cpus": profile.logical_cpus, "include_dashboard": False}
        options |= {} if temp is None else {"_temp_dir": str(temp)}
    try:
        ray.init(
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _environment()},
            **options,
        )
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise refused(error, profile.address or os.environ.get("RAY_ADDRESS", "this machine")) from error
    except SystemExit as error:  # Ray's answer to SIGTERM while it starts
        raise unfinished(SIGTERM, "Ray was being started: the same again goes on") from error
    return True


def _environment() -> dict[str, str]:
    """Variables of every process of the session. Under `ray job submit` what the job was given goes first."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    own = {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": _path(),
        # A trial that its scheduler stopped leaves its process to the next one; Tune fails that where it takes longer.
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    }
    return {name: value for name, value in own.items() if name not in given}


def _path() -> str:
    """The user's own reward functions lie where the driver was started, and trials have other working folders."""
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])


def _start_broker(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> Any:
    counts = {c.name: profile.workers_of(c.name) for c in candidates}
    _wait_for_the_name()
    # An actor without CPUs may land on a node that is lost next; the driver's node is the one that must live.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(Broker)
        .options(name=BROKER, num_cpus=0, max_concurrency=MOST_CALLS, scheduling_strategy=here)
        .remote(counts, profile.leases, profile.worker_start_timeout_s, told=BrokerMeters)
    )


def _wait_for_the_name() -> None:
    """Ray ends the actors of a driver that was killed, but not before it has noticed; the sweep's lock is ours."""
    deadline = time.monotonic() + LEFTOVER_S
    while True:
        try:
            ray.get_actor(BROKER)
        except ValueError:
            return
        if time.monotonic() > deadline:
            namespace = ray.get_runtime_context().namespace
            raise PoolError(f"a broker of {namespace} has been there for {LEFTOVER_S:g} s: end its Ray job first")
        time.sleep(0.5)


def _call(method: Any, *arguments: Any) -> Any:
    return got(method.remote(*arguments), CALL_S)
