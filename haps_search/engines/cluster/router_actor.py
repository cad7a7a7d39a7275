"""The central actor of a trial: it holds the routers, the hypernetworks and their optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from haps_search.config.run import Experiment
from haps_search.engines.cluster.store import Places, fetched, stored
from haps_search.engines.cluster.wire import (
    PackedAdapters,
    PackedTensors,
    pack_adapters,
    unpack_adapters,
    unpack_tensors,
)
from haps_search.tasks.own import hold_task
from haps_search.tasks.task import Task
from haps_search.types import (
    ModuleTable,
    Outcomes,
    Question,
    Rollouts,
    Routes,
    Snapshot,
    Taught,
    UpdateReport,
)

Keys = tuple[tuple[int, str], ...]
GradientKeys = tuple[tuple[int, str] | tuple[int, str, int], ...]


class RouterActor:
    """A `Learner` behind calls whose tensors are packed. Made an actor by the engine.

    `load` comes first; it is a call, since an error in `__init__` would only say that the actor died.
    """

    def load(
        self,
        experiment: Mapping[str, Any],
        tables: Mapping[str, ModuleTable],
        threads: int,
        gpus: float,
        own_task: Task | None = None,
    ) -> None:
        """Build the router. `own_task` is one that a program passed.

        Raises CandidateError, ConfigError.
        """
        from haps_search.engines.assembly import build_learner, prepare_torch
        from haps_search.tasks.build import build_task

        if own_task is not None:
            hold_task(own_task)
        prepare_torch(threads, gpus)
        self.__dict__.pop("_learner", None)  # two routers need not fit at once
        config = Experiment.model_validate(experiment)
        self._learner = build_learner(config, build_task(config.task), tables)

    def route(
        self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False
    ) -> tuple[Routes, Keys, PackedAdapters]:
        routes = self._learner.route(questions, episodes, seed, everyone)
        keys = tuple(routes.adapters)
        packed = pack_adapters([routes.adapters[key] for key in keys])
        packed = replace(packed, tensors=stored(packed.tensors))
        bare = Routes(routes.version, routes.assignments, routes.log_probabilities, routes.marginals, {})
        return bare, keys, packed

    def update(
        self,
        questions: Sequence[Question],
        bare: Rollouts | Taught,
        keys: GradientKeys,
        packed: PackedTensors,
    ) -> UpdateReport:
        """The gradients of `bare` come packed. Nothing has happened where an array is lost, and its error is raised."""
        gradients = dict(zip(keys, unpack_tensors(*fetched([packed])), strict=True))
        found: dict[Any, Any] = {key: value for key, value in gradients.items() if value is not None}
        first = {key: value for key, value in found.items() if len(key) == 2}
        further = {key: value for key, value in found.items() if len(key) == 3}
        return self._learner.update(questions, replace(bare, adapter_gradients=first, further_gradients=further))

    def learn(self, questions: Sequence[Question], signal: Outcomes) -> UpdateReport:
        return self._learner.update(questions, signal)

    def snapshot(self) -> Snapshot:
        return self._learner.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self._learner.restore(snapshot)


def opened(routes: Routes, keys: Keys, packed: PackedAdapters, places: Places) -> Routes:
    """The routes with their adapters, as the loop sees them. Raises one of `store.LOST`."""
    (tensors,) = fetched([packed.tensors])
    found = [adapter for adapter in unpack_adapters(replace(packed, tensors=tensors)) if adapter is not None]
    held = [t for adapter in found for part in adapter.parts for t in (part.values, part.mix) if t is not None]
    places.remember(held, packed.tensors)
    adapters = dict(zip(keys, found, strict=True))
    return Routes(routes.version, routes.assignments, routes.log_probabilities, routes.marginals, adapters)
