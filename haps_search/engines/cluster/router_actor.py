"""The central actor of a trial: it holds the routers, the hypernetworks and their optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from haps_search.config.run import Experiment
from haps_search.engines.cluster.store import Places, fetched, stored
from haps_search.engines.cluster.wire import PackedTensors, pack_tensors, unpack_tensors
from haps_search.tasks.own import hold_task
from haps_search.tasks.task import Task
from haps_search.types import (
    Adapter,
    AdapterLayout,
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
    ) -> Mapping[str, AdapterLayout]:
        """Build the router; returns the layouts of its adapters. `own_task` is one that a program passed.

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
        return self._learner.router.layouts

    def route(
        self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False
    ) -> tuple[Routes, Keys, PackedTensors]:
        routes = self._learner.route(questions, episodes, seed, everyone)
        keys = tuple(routes.adapters)
        packed = stored(pack_tensors([routes.adapters[key].values for key in keys]))
        bare = Routes(routes.version, routes.assignments, routes.log_probabilities, routes.marginals, {})
        return bare, keys, packed

    def update(
        self,
        questions: Sequence[Question],
        bare: Rollouts | Taught,
        keys: Keys,
        packed: PackedTensors,
    ) -> UpdateReport:
        """The gradients of `bare` come packed. Nothing has happened where an array is lost, and its error is raised."""
        gradients = dict(zip(keys, unpack_tensors(*fetched([packed])), strict=True))
        found = {key: value for key, value in gradients.items() if value is not None}
        return self._learner.update(questions, replace(bare, adapter_gradients=found))

    def learn(self, questions: Sequence[Question], signal: Outcomes) -> UpdateReport:
        return self._learner.update(questions, signal)

    def snapshot(self) -> Snapshot:
        return self._learner.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self._learner.restore(snapshot)


def opened(routes: Routes, keys: Keys, packed: PackedTensors, layouts: Mapping[str, Any], places: Places) -> Routes:
    """The routes with their adapters, as the loop sees them. Raises one of `store.LOST`."""
    values = unpack_tensors(*fetched([packed]))
    places.remember(values, packed)
    adapters = {
        key: Adapter(layouts[key[1]], value) for key, value in zip(keys, values, strict=True) if value is not None
    }
    return Routes(routes.version, routes.assignments, routes.log_probabilities, routes.marginals, adapters)
