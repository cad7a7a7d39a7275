"""The engine that a trial sees on Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.config.tasks import ObjectTask
from haps_search.engines.cluster.failures import answer
from haps_search.engines.cluster.remote_candidates import RemoteCandidates
from haps_search.engines.cluster.router_actor import RouterActor, opened
from haps_search.engines.cluster.store import LOST, Places, fetched, stored
from haps_search.engines.cluster.wire import pack_tensors, unpack_adapters
from haps_search.errors import Kind, PoolError
from haps_search.tasks.own import passed
from haps_search.types import (
    Adapter,
    Outcomes,
    Question,
    Rollouts,
    Routes,
    Sampled,
    SampleRequest,
    ScoreRequest,
    Scores,
    Signal,
    Snapshot,
    Taught,
    UpdateReport,
)


class RayEngine:
    """Implements `Engine`: a router actor of its own, and the pool shared with all other trials."""

    def __init__(self, broker: Any, router: Any, profile: ClusterProfile, name: str = "router") -> None:
        self._router, self._profile, self._name = router, profile, name
        self._places = Places()
        self._candidates = RemoteCandidates(broker, profile, self._places)

    @classmethod
    async def start(
        cls,
        experiment: Experiment,
        profile: ClusterProfile,
        broker: Any,
        router: Any = None,
        name: str = "measuring",
    ) -> RayEngine:
        """Start this trial's router actor while the pool loads, or go on with the `router` that an earlier one kept.
        Ray's dashboard shows the router's work under the `name`.

        Raises:
            CandidateError, ConfigError, PoolError: what the pool or the router could not load.
        """
        engine = cls(broker, _started(experiment, profile) if router is None else router, profile, name)
        try:
            await engine.load(experiment)
        except BaseException:
            await engine.close()
            raise
        return engine

    async def load(self, experiment: Experiment) -> None:
        """Put this experiment's fresh router in the place of the one before: many runs are measured in one actor.

        Raises:
            CandidateError, ConfigError: what the router could not load.
        """
        tables, resources = await self._candidates.tables(), self._profile.router
        described = experiment.model_dump(mode="json")
        own = passed(experiment.task) if isinstance(experiment.task, ObjectTask) else None
        await self._routed("load", described, tables, resources.threads, resources.gpus, own)

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        bare, adapters, references = await self._routed("route", list(questions), episodes, seed, everyone)
        try:
            return await asyncio.to_thread(opened, bare, adapters, references, self._places)
        except LOST as error:
            raise PoolError(f"the router's adapters were lost ({error})").of_kind(Kind.TRANSIENT) from error

    async def adapters_of(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        """Of every candidate for every question, as torch tensors."""
        keys, packed = await self._routed("all_adapters", list(questions))
        (tensors,) = await asyncio.to_thread(fetched, [packed.tensors])
        pairs = zip(keys, unpack_adapters(replace(packed, tensors=tensors)), strict=True)
        return {key: adapter for key, adapter in pairs if adapter is not None}

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return await self._candidates.sample(candidate, requests)

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        return await self._candidates.score(candidate, requests)

    async def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        if isinstance(signal, Outcomes):
            return await self._routed("learn", list(questions), signal)
        try:
            return await self._learnt(questions, signal)
        except LOST:  # the worker that put a gradient is gone; the numbers are here
            self._places.forget([*signal.adapter_gradients.values(), *signal.further_gradients.values()])
            return await self._learnt(questions, signal)

    async def _learnt(self, questions: Sequence[Question], signal: Rollouts | Taught) -> UpdateReport:
        all_of_them: dict[Any, Any] = {**signal.adapter_gradients, **signal.further_gradients}
        keys = tuple(all_of_them)
        packed = stored(pack_tensors([all_of_them[key] for key in keys], self._places))
        bare = replace(signal, adapter_gradients={}, further_gradients={})
        return await self._routed("update", list(questions), bare, keys, packed)

    async def snapshot(self) -> Snapshot:
        return await self._routed("snapshot")

    async def restore(self, snapshot: Snapshot) -> None:
        await self._routed("restore", snapshot)

    async def close(self) -> None:
        ray.kill(self.released())

    def released(self) -> Any:
        """The router actor, for another engine; this one is done."""
        self._candidates.leave()
        return self._router

    async def _routed(self, method: str, *arguments: Any) -> Any:
        """A call of the router, which may take as long as loading a model."""
        limit_s = max(self._profile.worker_start_timeout_s, self._profile.leases.deadline_s)
        call = getattr(self._router, method).options(name=f"{self._name}: {method}")
        return await answer(call.remote(*arguments), limit_s)


def _started(experiment: Experiment, profile: ClusterProfile) -> Any:
    remote: Any = ray.remote(RouterActor)
    router = remote.options(num_cpus=profile.router.cpus, num_gpus=profile.router.gpus).remote()
    router.begin.remote(experiment.model_dump(mode="json"))  # `load` comes when the pool has
    return router
