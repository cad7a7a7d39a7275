"""The pool: workers that each host one candidate, a Ray Train run per resource shape, in threads beside the sweep."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors  # the public list asks the dashboard, which may not be there
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile, Resources
from haps_search.engines.cluster.worker import host
from haps_search.engines.placement.seating import Crew, crews
from haps_search.records.remote import storage

_log = logging.getLogger(__name__)
_UNUSED = "DatasetsCallback", "PlacementGroupCleanerCallback"
MOST_SAID = 500
"""Characters of Train's own reason; the log has all of it."""


class HostingBackend(Backend):
    """No process group: candidates never talk to one another."""

    # Train then replaces only the rank that died, and the other LLMs stay loaded. With False every rank
    # restarts: slower, and still correct.
    has_replica_groups = True


@dataclass
class HostingConfig(BackendConfig):
    """Its backend sets up nothing: each rank sees its own GPU only, and neither driver nor controller needs torch."""

    @property
    def backend_cls(self) -> type[Backend]:
        return HostingBackend


class HostingTrainer(DataParallelTrainer):
    """Without the process that hands out Ray datasets, of which there are none; each takes seconds of CPU to start."""

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in _UNUSED]


class Pool:
    """Starts with `start`, ends when the broker ends; if Train gives up, everyone who waits is told."""

    def __init__(
        self, candidates: Sequence[CandidateConfig], profile: ClusterProfile, broker_name: str, namespace: str
    ) -> None:
        self._profile, self._broker_name, self._namespace = profile, broker_name, namespace
        self._candidates = {c.name: c for c in candidates}
        self._crews = crews(candidates, profile)
        self._folder = Path()
        self._threads: list[threading.Thread] = []

    def start(self, folder: Path) -> None:
        profile, self._folder = self._profile, folder
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(profile.health_check_interval_s)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(profile.worker_start_timeout_s)
        for crew in self._crews:
            self._begin(crew, ())

    def elsewhere(self, candidate: str, avoided: Collection[str]) -> None:
        """One more worker of a candidate, on none of these nodes: Train would replace a rank where it was."""
        self._begin(Crew(self._profile.resources_of(candidate), (self._candidates[candidate],)), avoided)

    def _begin(self, crew: Crew, avoided: Collection[str]) -> None:
        number = len(self._threads)
        trainer = self._trainer(crew, number, avoided)
        thread = threading.Thread(target=self._fit, args=(trainer,), name=f"pool-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _trainer(self, crew: Crew, number: int, avoided: Collection[str]) -> HostingTrainer:
        retries = self._profile.retries
        return HostingTrainer(
            host,
            train_loop_config={
                "seats": [c.model_dump(mode="json") for c in crew.seats],
                "crew": number,
                "broker": self._broker_name,
                "namespace": self._namespace,
                "threads": crew.resources.threads,
                "gpus": crew.resources.gpus,
                "retries": {"within_s": retries.within_s, "longest_s": retries.longest_pause_s},
                "workers": {c.name: self._profile.workers_of(c.name) for c in crew.seats},
                "deadline_s": self._profile.leases.deadline_s,
            },
            backend_config=HostingConfig(),
            scaling_config=ScalingConfig(
                num_workers=len(crew.seats),
                use_gpu=crew.resources.gpus > 0,
                resources_per_worker=_bundle(crew.resources),
                placement_strategy="SPREAD" if crew.spread else "PACK",
                **_but_not_on(avoided),
            ),
            run_config=RunConfig(
                name=f"pool-{number}",
                storage_path=storage(self._folder),
                # The broker counts restarts per worker; Train's own count would bound their sum.
                failure_config=FailureConfig(max_failures=-1),
            ),
        )

    def _fit(self, trainer: HostingTrainer) -> None:
        reason = "the pool ended"
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - Train raises many kinds; whoever waits must hear of each
            _log.warning("the pool failed", exc_info=True)
            reason = f"the pool failed: {' '.join(str(error).split())[:MOST_SAID]}"
        if ray.is_initialized():
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        try:
            broker: Any = ray.get_actor(self._broker_name, namespace=self._namespace)
        except ValueError:
            return  # the session ended the broker first
        broker.fail_all.remote(reason)

    def join(self, timeout_s: float) -> list[str]:
        """The threads that have not ended by then: Train waits for workers that it starts, and without end for room for
        one that it lost."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def give_up(self) -> None:
        """Kill what `join` waits for: Train's controllers, of which it keeps no handle. They run on this node, and this
        process has no others: one pool at a time."""
        here = ray.get_runtime_context()
        for actor in actors(job_id=ray.JobID.from_hex(here.get_job_id()), actor_state_name="ALIVE").values():
            if actor["ActorClassName"] == "TrainController" and actor["Address"]["NodeID"] == here.get_node_id():
                _log.warning("Train has not left, and its controller (process %d) is killed", actor["Pid"])
                with suppress(ProcessLookupError):
                    os.kill(actor["Pid"], signal.SIGKILL)


def _but_not_on(nodes: Collection[str]) -> dict[str, Any]:
    """By a label that Ray gives every node; not passed where nothing is avoided, as older versions know none."""
    return {"label_selector": {"ray.io/node-id": f"!in({','.join(nodes)})"}} if nodes else {}


def _bundle(resources: Resources) -> dict[str, float]:
    bundle = {"CPU": resources.cpus}
    if resources.gpus:
        bundle["GPU"] = resources.gpus
    return bundle
