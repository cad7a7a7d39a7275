"""The engine that a trial sees on Ray."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import ray

from haps_search.candidates.partial import added, pieces
from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.engines.cluster.failures import answer
from haps_search.engines.cluster.router_actor import RouterActor, opened
from haps_search.engines.cluster.wire import estimated_tokens, pack_sample, pack_score, pack_tensors, unpack_scores
from haps_search.types import (
    Outcomes,
    Question,
    Routes,
    Sampled,
    SampleRequest,
    ScoreRequest,
    Scores,
    Signal,
    Snapshot,
    UpdateReport,
)


def parcel_rows(profile: ClusterProfile, requests: int) -> int:
    """How many of so many requests make a parcel, which one worker takes: so few that all replicas get some."""
    replicas = max(profile.replicas.values(), default=1)
    return max(1, min(profile.leases.rows, -(-requests // replicas)))


async def sample_in_pool(
    broker: Any, rows: int, candidate: str, requests: Sequence[SampleRequest], trial: str = ""
) -> list[Sampled]:
    """One completion per request, in order, asked in parcels of `rows` that hold requests of like length.

    Raises CandidateError, PoolError.
    """
    lengths = [estimated_tokens(request.messages, request.sampling.max_new_tokens) for request in requests]
    order = sorted(range(len(requests)), key=lengths.__getitem__)
    parts = [order[i : i + rows] for i in range(0, len(order), rows)]
    packed = [pack_sample([requests[i] for i in part]) for part in parts]
    parcels = await asyncio.gather(*(answer(broker.submit.remote(candidate, p, trial)) for p in packed))
    drawn = [sampled for parcel in parcels for sampled in parcel.samples]
    found = dict(zip(order, drawn, strict=True))
    return [found[i] for i in range(len(requests))]


async def score_in_pool(
    broker: Any, rows: int, candidate: str, requests: Sequence[ScoreRequest], trial: str = ""
) -> Scores:
    """Asked in parcels of at most `rows` completions; those of a request stay together where they fit.

    Raises CandidateError, PoolError.
    """
    parts = pieces(requests, rows)
    packed = [pack_score(part.requests) for part in parts]
    parcels = await asyncio.gather(*(answer(broker.submit.remote(candidate, p, trial)) for p in packed))
    return added(requests, parts, [unpack_scores(parcel) for parcel in parcels])


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
        loaded = self._router.load.remote(described, tables, resources.threads, resources.gpus)
        self._layouts = await answer(loaded)
        per_step = experiment.run.questions_per_step * experiment.run.episodes_per_question
        self._rows = parcel_rows(self._profile, per_step)

    async def route(self, questions: Sequence[Question], episodes: int, seed: int) -> Routes:
        bare, keys, packed = await answer(self._router.route.remote(list(questions), episodes, seed))
        return opened(bare, keys, packed, self._layouts)

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return await sample_in_pool(self._broker, self._rows, candidate, requests, self._trial)

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        return await score_in_pool(self._broker, self._rows, candidate, requests, self._trial)

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
