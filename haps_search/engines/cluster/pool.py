"""The pool: a Ray Train run whose workers each host one candidate, in a thread beside the sweep."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster.worker import host


class HostingBackend(Backend):
    """No process group: candidates never talk to one another."""

    # Train then replaces only the rank that died, and the other LLMs stay loaded. With False every rank
    # restarts: slower, and still correct.
    has_replica_groups = True


@dataclass
class HostingConfig(TorchConfig):
    """A TorchConfig whose backend sets up nothing, so each rank sees its own GPU only."""

    @property
    def backend_cls(self) -> type[Backend]:
        return HostingBackend


def seats(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> list[CandidateConfig]:
    """One entry per worker, replicas side by side."""
    return [c for c in candidates for _ in range(profile.replicas.get(c.name, 1))]


class Pool:
    """Starts with `start`, ends when the broker ends; if Train gives up, everyone who waits is told."""

    def __init__(
        self, candidates: Sequence[CandidateConfig], profile: ClusterProfile, broker_name: str, namespace: str
    ) -> None:
        self._profile, self._broker_name, self._namespace = profile, broker_name, namespace
        self._seats = seats(candidates, profile)
        self._thread: threading.Thread | None = None

    def start(self, storage: Path) -> None:
        profile = self._profile
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(profile.health_check_interval_s)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(profile.worker_start_timeout_s)
        trainer = TorchTrainer(
            host,
            train_loop_config={
                "seats": [c.model_dump(mode="json") for c in self._seats],
                "broker": self._broker_name,
                "namespace": self._namespace,
                "threads": profile.candidate.threads,
                "gpus": profile.candidate.gpus,
            },
            torch_config=HostingConfig(),
            scaling_config=ScalingConfig(
                num_workers=len(self._seats),
                use_gpu=profile.candidate.gpus > 0,
                resources_per_worker=_resources(profile),
            ),
            run_config=RunConfig(
                name="pool",
                storage_path=str(storage),
                # The broker counts restarts per worker; Train's own count would bound their sum.
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        self._thread = threading.Thread(target=self._fit, args=(trainer,), name="pool", daemon=True)
        self._thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        reason = "the pool ended"
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - Train raises many kinds; whoever waits must hear of each
            reason = f"the pool failed: {error}"
        if ray.is_initialized():
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        try:
            broker: Any = ray.get_actor(self._broker_name, namespace=self._namespace)
        except ValueError:
            return  # the session ended the broker first
        broker.fail_all.remote(reason)

    def join(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)


def _resources(profile: ClusterProfile) -> dict[str, float]:
    resources = {"CPU": profile.candidate.cpus}
    if profile.candidate.gpus:
        resources["GPU"] = profile.candidate.gpus
    return resources
