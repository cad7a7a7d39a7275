"""The central actor of a trial: it holds the routers, the hypernetworks and their optimiser."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from haps_search.config.routing import BackboneConfig
from haps_search.config.run import Experiment
from haps_search.engines.cluster.store import Places, fetched, stored
from haps_search.engines.cluster.wire import PackedTensors, pack_tensors, unpack_arrays, unpack_tensors
from haps_search.engines.lean_imports import import_lean
from haps_search.records.sealed_tensors import SealedTensors
from haps_search.tasks.own import hold_task
from haps_search.tasks.task import Task
from haps_search.types import (
    Adapter,
    AdapterLayout,
    Assignment,
    ModuleTable,
    Outcomes,
    Question,
    Rollouts,
    Routes,
    Snapshot,
    UpdateReport,
)

Keys = tuple[tuple[int, str], ...]


class RouterActor:
    """A `Learner` behind calls whose tensors are packed. Made an actor by the engine.

    `load` comes first; it is a call, since an error in `__init__` would only say that the actor died. It may come again
    for another run. What `begin` did before need not be done then.
    """

    def begin(self, experiment: Mapping[str, Any]) -> None:
        """Import what a router needs."""
        backbone = Experiment.model_validate(experiment).routing.backbone
        if isinstance(backbone, BackboneConfig):
            import_lean(backbone)
        importlib.import_module("haps_search.engines.assembly")

    def load(
        self,
        experiment: Mapping[str, Any],
        tables: Mapping[str, ModuleTable],
        threads: int,
        gpus: float,
        own_task: Task | None = None,
    ) -> Mapping[str, AdapterLayout]:
        """Build the router; returns the layouts of its adapters. `own_task` is one that a program passed.

        Raises CandidateError, ConfigError.
        """
        from haps_search.engines.assembly import build_learner
        from haps_search.engines.torch_process import prepare_torch
        from haps_search.tasks.build import build_task

        if own_task is not None:
            hold_task(own_task)
        prepare_torch(threads, gpus)
        self.__dict__.pop("_learner", None)  # two routers need not fit at once
        config = Experiment.model_validate(experiment)
        self._learner = build_learner(config, build_task(config.task), tables)
        return self._learner.router.layouts

    def route(self, questions: Sequence[Question], episodes: int, seed: int) -> tuple[Routes, Keys, PackedTensors]:
        routes = self._learner.route(questions, episodes, seed)
        return replace(routes, adapters={}), *_packed(routes.adapters)

    def all_adapters(self, questions: Sequence[Question]) -> tuple[Keys, PackedTensors]:
        return _packed(self._learner.router.all_adapters(questions))

    def update(
        self,
        questions: Sequence[Question],
        version: int,
        assignments: tuple[tuple[Assignment, ...], ...],
        advantages: tuple[tuple[float, ...], ...],
        keys: Keys,
        packed: PackedTensors,
    ) -> UpdateReport:
        """Nothing has happened where an array of `packed` is lost, and its error is raised."""
        gradients = dict(zip(keys, unpack_tensors(*fetched([packed])), strict=True))
        found = {key: value for key, value in gradients.items() if value is not None}
        return self._learner.update(questions, Rollouts(version, assignments, advantages, found))

    def learn(self, questions: Sequence[Question], signal: Outcomes) -> UpdateReport:
        return self._learner.update(questions, signal)

    def snapshot(self) -> Snapshot:
        taken = self._learner.snapshot()
        fitted = SealedTensors.of(taken.fitted) if taken.fitted else {}
        return replace(taken, tensors=SealedTensors.of(taken.tensors), fitted=fitted)

    def restore(self, snapshot: Snapshot) -> None:
        self._learner.restore(snapshot)


def _packed(adapters: Mapping[tuple[int, str], Adapter]) -> tuple[Keys, PackedTensors]:
    return tuple(adapters), stored(pack_tensors([adapter.values for adapter in adapters.values()]))


def opened(routes: Routes, keys: Keys, packed: PackedTensors, layouts: Mapping[str, Any], places: Places) -> Routes:
    """The routes with their adapters, as the loop sees them: arrays, which it passes on. Raises one of `store.LOST`."""
    values = unpack_arrays(*fetched([packed]))
    places.remember(values, packed)
    adapters = {
        key: Adapter(layouts[key[1]], value) for key, value in zip(keys, values, strict=True) if value is not None
    }
    return replace(routes, adapters=adapters)
