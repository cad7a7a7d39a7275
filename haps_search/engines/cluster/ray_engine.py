"""The engine that a trial sees on Ray."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import ray

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.config.tasks import ObjectTask
from haps_search.engines.cluster.failures import answer
from haps_search.engines.cluster.router_actor import RouterActor, opened
from haps_search.engines.cluster.wire import estimated_tokens, pack_requests, pack_tensors, unpack_responses
from haps_search.tasks.own import passed
from haps_search.types import Outcomes, Question, Request, Response, Routes, Signal, Snapshot, UpdateReport


def parcel_rows(profile: ClusterProfile, requests: int) -> int:
    """How many of so many requests make a parcel, which one worker takes: so few that all replicas get some."""
    replicas = max(profile.replicas.values(), default=1)
    return max(1, min(profile.leases.rows, -(-requests // replicas)))


async def ask_pool(
    broker: Any, rows: int, candidate: str, requests: Sequence[Request], trial: str = ""
) -> list[Response]:
    """One response per request, in order, sent in parcels of `rows` that hold requests of like length.

    Raises CandidateError, PoolError.
    """
    order = sorted(range(len(requests)), key=lambda i: estimated_tokens(requests[i].messages, requests[i].sampling))
    parts = [order[i : i + rows] for i in range(0, len(order), rows)]
    packed = [pack_requests([requests[i] for i in part]) for part in parts]
    parcels = await asyncio.gather(*(answer(broker.submit.remote(candidate, p, trial)) for p in packed))
    responses = [response for parcel in parcels for response in unpack_responses(parcel)]
    found = dict(zip(order, responses, strict=True))
    return [found[i] for i in range(len(requests))]


class RayEngine:
    """Implements `Engine`: a router actor of its own, and the pool shared with all other trials."""

    def __init__(self, broker: Any, router: Any, profile: ClusterProfile) -> None:
        self._broker, self._router, self._profile = broker, router, profile
        self._trial = uuid.uuid4().hex
        self._layouts: dict[str, Any] = {}
        self._rows = 1

    @classmethod
    async def start(cls, experiment: Experiment, profile: ClusterProfile, broker: Any) -> RayEngine:
        """Wait for the pool, then start this trial's router actor.

        Raises:
            CandidateError, ConfigError, PoolError: what the pool or the router could not load.
        """
        await answer(broker.tables.remote())
        remote: Any = ray.remote(RouterActor)
        router = remote.options(num_cpus=profile.router.cpus, num_gpus=profile.router.gpus).remote()
        engine = cls(broker, router, profile)
        await engine.load(experiment)
        return engine

    async def load(self, experiment: Experiment) -> None:
        """Put this experiment's fresh router in the place of the one before: many runs are measured in one actor.

        Raises:
            CandidateError, ConfigError: what the router could not load.
        """
        tables, resources = await answer(self._broker.tables.remote()), self._profile.router
        described = experiment.model_dump(mode="json")
        own = passed(experiment.task) if isinstance(experiment.task, ObjectTask) else None
        loaded = self._router.load.remote(described, tables, resources.threads, resources.gpus, own)
        self._layouts = await answer(loaded)
        per_step = experiment.run.questions_per_step * experiment.run.episodes_per_question
        self._rows = parcel_rows(self._profile, per_step)

    async def route(self, questions: Sequence[Question], episodes: int, seed: int) -> Routes:
        bare, keys, packed = await answer(self._router.route.remote(list(questions), episodes, seed))
        return opened(bare, keys, packed, self._layouts)

    async def speak(self, candidate: str, requests: Sequence[Request]) -> list[Response]:
        return await ask_pool(self._broker, self._rows, candidate, requests, self._trial)

    async def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        if isinstance(signal, Outcomes):
            return await answer(self._router.learn.remote(list(questions), signal))
        keys = tuple(signal.adapter_gradients)
        packed = pack_tensors([signal.adapter_gradients[key] for key in keys])
        return await answer(
            self._router.update.remote(
                list(questions), signal.version, signal.assignments, signal.architecture_advantages, keys, packed
            )
        )

    async def snapshot(self) -> Snapshot:
        return await answer(self._router.snapshot.remote())

    async def restore(self, snapshot: Snapshot) -> None:
        await answer(self._router.restore.remote(snapshot))

    async def close(self) -> None:
        ray.kill(self._router)
