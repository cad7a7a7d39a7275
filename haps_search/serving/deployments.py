"""What runs in replicas of Ray Serve: one candidate, or the router. Adapters go from one to the other by reference."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import ray

from haps_search.config.candidates import CandidateConfig
from haps_search.config.run import Experiment
from haps_search.engines.cluster.failures import got
from haps_search.engines.cluster.store import Places, fetched, stored
from haps_search.engines.cluster.wire import PackedAdapters, PackedTensors, SampleParcel, pack_adapters, unpack_adapters
from haps_search.search.gated import Gate
from haps_search.serving.exchange import Asked, Decided
from haps_search.serving.hosts import CandidateHost, RouterHost
from haps_search.serving.served_run import router_of
from haps_search.tasks.build import build_task
from haps_search.tasks.own import hold_task
from haps_search.tasks.task import Task
from haps_search.types import ModuleTable, Sampled, SampleRequest

FETCH_S = 60.0
"""For a router's weights out of the object store."""

FROZEN = PackedAdapters((None,), PackedTensors((), ()))
"""No adapter."""


class CandidateReplica:
    """A candidate that answers whoever asks, in batches."""

    def __init__(self, config: Mapping[str, Any], threads: int, gpus: float) -> None:
        from haps_search.engines.local import load_candidate
        from haps_search.engines.torch_process import prepare_torch

        prepare_torch(threads, gpus)
        own = CandidateConfig.model_validate(config)
        candidate = load_candidate(own)
        self._table = candidate.table
        self._host = CandidateHost(candidate, own.batch_rows, ThreadPoolExecutor(1, "candidate"))
        self._tensors = SharedTensors()

    async def table(self) -> ModuleTable:
        return self._table

    async def sample(self, parcel: SampleParcel) -> Sampled:
        return await self._host.sample(await self._opened(parcel))

    async def stream(self, parcel: SampleParcel) -> AsyncIterator[str | Sampled]:
        """Pieces of the text, and at the end what was drawn."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        work = asyncio.ensure_future(self._host.sample(await self._opened(parcel), pieces.put_nowait))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await work
        finally:
            work.cancel()

    async def _opened(self, parcel: SampleParcel) -> SampleRequest:
        adapters = parcel.adapters
        if any(isinstance(array, ray.ObjectRef) for array in adapters.tensors.arrays):
            (tensors,) = await asyncio.to_thread(fetched, [adapters.tensors])
        else:
            tensors = adapters.tensors
        (adapter,) = unpack_adapters(
            replace(adapters, tensors=tensors), lambda packed: self._tensors.of(adapters.tensors, packed)
        )
        return replace(parcel.requests[0], adapter=adapter)


class SharedTensors:
    """One tensor for one place in the store, as long as somebody uses it, so that rows which share an adapter share it
    in a batch as well."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[Any, int], Any] = weakref.WeakValueDictionary()

    def of(self, sealed: PackedTensors, at_hand: PackedTensors) -> list[Any]:
        """Those of `at_hand`, whose references are in `sealed`."""
        import torch

        found: list[Any] = []
        for at in at_hand.where:
            if at is None:
                found.append(None)
                continue
            array, row = at
            tensor = torch.from_numpy(at_hand.arrays[array][row])
            if isinstance(sealed.arrays[array], ray.ObjectRef):
                tensor = self._known.setdefault((sealed.arrays[array], row), tensor)
            found.append(tensor)
        return found


class RouterReplica:
    """The router of a run. `snapshot` is a reference to its best checkpoint's, in a list, so that Ray leaves it so."""

    def __init__(
        self,
        experiment: Mapping[str, Any],
        snapshot: list[Any],
        tables: Mapping[str, ModuleTable],
        gate: Gate | None,
        threads: int,
        gpus: float,
        own_task: Task | None = None,
    ) -> None:
        from haps_search.engines.torch_process import prepare_torch

        if own_task is not None:
            hold_task(own_task)
        prepare_torch(threads, gpus)
        described = Experiment.model_validate(experiment)
        router = router_of(described, got(snapshot[0], FETCH_S), tables)
        threads_of = ThreadPoolExecutor(1, "router")
        self._host = RouterHost(described, build_task(described.task), router, gate, threads_of)
        self._places = Places()

    async def decide(self, asked: Asked) -> tuple[Decided, dict[str, PackedAdapters]]:
        """The decision, and the adapters packed; what they share with others of this router lies in the store once."""
        routed = await self._host.decide(asked)
        return routed.decided, {name: self._packed(adapter) for name, adapter in routed.adapters.items()}

    def _packed(self, adapter: Any) -> PackedAdapters:
        packed = pack_adapters([adapter], self._places)
        sealed = replace(packed, tensors=stored(packed.tensors))
        tensors = [t for part in adapter.parts for t in (part.values, part.mix) if t is not None]
        self._places.remember(tensors, sealed.tensors)
        return sealed
