"""A run on Ray Serve: the router is one application, each candidate another, and this process asks them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile, Resources
from haps_search.config.tasks import ObjectTask
from haps_search.engines.cluster.failures import reason_of, unwrapped
from haps_search.engines.cluster.session import connect, name_here, room_for
from haps_search.engines.cluster.wire import SampleParcel
from haps_search.engines.local import best_of
from haps_search.errors import CandidateError, HapsError, Kind, PoolError
from haps_search.serving.deployments import FROZEN, CandidateReplica, RouterReplica
from haps_search.serving.exchange import Asked, Routed
from haps_search.serving.hosts import QUESTIONS, Hears
from haps_search.serving.served_run import ServedRun
from haps_search.serving.service import Service
from haps_search.tasks.build import build_task
from haps_search.tasks.own import passed
from haps_search.types import Sampled, SampleRequest

_log = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 3
"""A request whose replica was lost before anything was heard of it is sent again so often, all in all."""
LOADS = 2
"""So often is a model loaded that does not load."""
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Of Serve's own logs, of the controller's and of each replica."""
LOOK_S = 0.5
FRESH_S = 1.0
"""So long is what Serve said of its replicas taken for true."""


class RayRouter:
    """Implements `Decides` by a router's replicas."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def decide(self, asked: Asked) -> Routed:
        decided, adapters = await _again(lambda: _answer(self._handle.decide.remote(asked)))
        return Routed(decided, adapters)


class RayCandidate:
    """Implements `Answers` by a candidate's replicas. Adapters are packed, as the router gave them."""

    def __init__(self, name: str, handle: Any) -> None:
        self._name, self._handle = name, handle

    async def sample(self, request: SampleRequest, hears: Hears | None = None) -> Sampled:
        packed: Any = request.adapter or FROZEN
        parcel = SampleParcel((replace(request, adapter=None),), packed)
        if hears is None:
            return await _again(lambda: _answer(self._handle.sample.remote(parcel)))
        heard = _Heard(hears)
        return await _again(lambda: self._streamed(parcel, heard), lambda: heard.nothing)

    async def _streamed(self, parcel: SampleParcel, heard: _Heard) -> Sampled:
        told = self._handle.options(stream=True).stream.remote(parcel)
        drawn: Sampled | None = None
        async for item in _cancelling(told):
            if isinstance(item, str):
                heard.hear(item)
            else:
                drawn = item
        if drawn is None:
            raise PoolError(f"candidate {self._name}: its answer ended in the middle")
        return drawn


@dataclass(slots=True)
class _Heard:
    """Passes pieces on, and knows whether there was one."""

    hears: Hears
    nothing: bool = True

    def hear(self, piece: str) -> None:
        self.nothing = False
        self.hears(piece)


async def _again(call: Callable[[], Awaitable[T]], may: Callable[[], bool] = lambda: True) -> T:
    """The answer of a call that a lost replica may have taken with it. It asks for the same draw, so none comes twice.

    Raises HapsError of the replica, or PoolError.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await call()
        except RayActorError as error:
            if attempt == ATTEMPTS or not may():
                raise PoolError(f"a replica was lost: {reason_of(error)}").of_kind(Kind.TRANSIENT) from error
            _log.warning("a replica was lost with a request, which is sent again: %s", reason_of(error))
        except (RayError, RayServeException) as error:
            raise _ours(error) from error
    raise AssertionError("unreachable")


def _ours(error: Exception) -> HapsError:
    found = unwrapped(error) if isinstance(error, RayError) else error
    return found if isinstance(found, HapsError) else PoolError(f"the service on Ray failed: {reason_of(error)}")


async def _answer(response: Any) -> Any:
    """Who is cancelled cancels the replica's work too."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


async def _cancelling(response: Any) -> AsyncIterator[Any]:
    whole = False
    try:
        async for item in response:
            yield item
        whole = True
    finally:
        if not whole:
            response.cancel()


class Applications:
    """What was started on Serve for one run, by this process."""

    def __init__(self, served: ServedRun, profile: ClusterProfile) -> None:
        self._served, self._profile = served, profile
        self._prefix = f"haps-{served.name}"
        self._started: list[str] = []
        self._status: tuple[float, str | None] = (0.0, "starting")

    def start(self) -> Service:
        """Load everything. Raises CandidateError where a model does not load, PoolError where it takes too long."""
        experiment = self._served.experiment
        described, task = experiment.model_dump(mode="json"), build_task(experiment.task)
        candidates = self._run({self._name(c.name): self._candidate(c) for c in self._served.hosted})
        named = {c.name: candidates[self._name(c.name)] for c in self._served.hosted}
        tables = {name: handle.table.remote().result() for name, handle in named.items()}
        self._snapshot = ray.put(best_of(self._served.folder, experiment).snapshot)
        own = passed(experiment.task) if isinstance(experiment.task, ObjectTask) else None
        share = self._profile.router
        router = self._deployment(RouterReplica, "router", share, 1, 1, QUESTIONS).bind(
            described, [self._snapshot], tables, self._served.gate, share.threads, share.gpus, own
        )
        (handle,) = self._run({f"{self._prefix}-router": router}).values()
        answering = {name: RayCandidate(name, each) for name, each in named.items()}
        return self._served.service(task, RayRouter(handle), answering)

    async def missing(self) -> str | None:
        """What has no replica at present, None where all have one."""
        looked, found = self._status
        if time.monotonic() - looked > FRESH_S:
            found = await asyncio.to_thread(self._without_replica)
            self._status = time.monotonic(), found
        return found

    def delete(self) -> None:
        for name in self._started:
            serve.delete(name, _blocking=True)
        self._started.clear()

    def _name(self, candidate: str) -> str:
        return f"{self._prefix}-candidate-{candidate}"

    def _candidate(self, config: CandidateConfig) -> Any:
        share, growth = self._profile.resources_of(config.name), self._profile.serving
        least = self._profile.workers_of(config.name)
        most = max(least, growth.most_replicas.get(config.name, least))
        made = self._deployment(CandidateReplica, config.name, share, least, most, config.batch_rows)
        return made.bind(config.model_dump(mode="json"), share.threads, share.gpus)

    def _deployment(self, what: type, name: str, share: Resources, least: int, most: int, at_once: int) -> Any:
        options: dict[str, Any] = {"num_replicas": least}
        if most > least:
            target = self._profile.serving.target_requests
            scaled = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target}
            options = {"autoscaling_config": scaled}
        return serve.deployment(what).options(
            name=name,
            ray_actor_options={"num_cpus": share.cpus, "num_gpus": share.gpus},
            max_ongoing_requests=2 * at_once,  # a batch at work, and the next one waiting
            health_check_period_s=self._profile.health_check_interval_s,
            graceful_shutdown_timeout_s=self._profile.grace_s,
            max_constructor_retry_count=LOADS,
            logging_config=QUIET,
            **options,
        )

    def _run(self, applications: dict[str, Any]) -> dict[str, Any]:
        targets = [serve.RunTarget(each, name=name, route_prefix=None) for name, each in applications.items()]
        self._started += applications
        handles = serve.run_many(targets, wait_for_applications_running=False)
        until = time.monotonic() + self._profile.worker_start_timeout_s
        while waiting := self._not_running(applications):
            if time.monotonic() > until:
                raise PoolError(f"{', '.join(waiting)} did not start in {self._profile.worker_start_timeout_s:g} s")
            time.sleep(LOOK_S)
        return dict(zip(applications, handles, strict=True))

    def _not_running(self, names: Sequence[str] | dict[str, Any]) -> list[str]:
        """Raises CandidateError for one that will not run."""
        there, waiting = serve.status().applications, []
        for name in names:
            status = there[name].status.value if name in there else "NOT_STARTED"
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                told = [each.message for each in there[name].deployments.values()] or [there[name].message]
                raise CandidateError(f"{name}: its replica does not start: {' '.join(told)[-2000:]}")
            if status != "RUNNING":
                waiting.append(name)
        return waiting

    def _without_replica(self) -> str | None:
        there = serve.status().applications
        for name in self._started:
            deployments = there[name].deployments.values() if name in there else ()
            if not any(count and state == "RUNNING" for d in deployments for state, count in d.replica_states.items()):
                return f"{name} has no replica"
        return None


@contextmanager
def on_ray(
    served: ServedRun, profile: ClusterProfile, say: Callable[[str], None]
) -> Iterator[tuple[Service, Callable[[], Awaitable[str | None]]]]:
    """The service, and what says what is missing; its replicas until the context ends. A Ray that is not there is
    started in a folder of its own, and ended; of another one's Ray or Serve only what was started here is ended.

    Raises:
        ConfigError: the cluster lacks what the profile asks for. CandidateError, CheckpointError, PoolError: what is
            not there or does not load.
    """
    best_of(served.folder, served.experiment)
    with _ray(served, profile), _serve():
        room_for(served.hosted, profile, say, lambda: False)
        applications = Applications(served, profile)
        try:
            yield applications.start(), applications.missing
        finally:
            applications.delete()


@contextmanager
def _ray(served: ServedRun, profile: ClusterProfile) -> Iterator[None]:
    # Sockets allow about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="haps", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
    started = False
    try:
        name = name_here(f"serve-{served.name}")
        started = connect(profile, f"haps-{name}", served.folder.resolve() / "logs", folder)
        yield
    finally:
        if started:
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _serve() -> Iterator[None]:
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        began = False
    except ValueError:
        began = True
        serve.start(proxy_location="Disabled", logging_config=QUIET)
    try:
        yield
    finally:
        if began:
            serve.shutdown()
