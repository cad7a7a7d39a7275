"""The central actor of a trial: it holds the routers, the hypernetworks and their optimiser."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from haps_search.config.routing import BackboneConfig
from haps_search.config.run import Experiment
from haps_search.engines.cluster.store import Places, fetched, stored
from haps_search.engines.cluster.wire import (
    PackedAdapters,
    PackedTensors,
    pack_adapters,
    unpack_adapters,
    unpack_arrays,
    unpack_tensors,
)
from haps_search.engines.lean_imports import import_lean
from haps_search.records.sealed_tensors import SealedTensors
from haps_search.tasks.own import hold_task
from haps_search.tasks.task import Task
from haps_search.types import (
    Adapter,
    ModuleTable,
    Outcomes,
    Question,
    Rollouts,
    Routes,
    Snapshot,
    Taught,
    UpdateReport,
)

Held = tuple[tuple[tuple[int, str], ...], PackedAdapters]
"""Adapters by question and candidate."""
GradientKeys = tuple[tuple[int, str] | tuple[int, str, int], ...]


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
    ) -> None:
        """Build the router. `own_task` is one that a program passed.

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

    def route(
        self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False
    ) -> tuple[Routes, Held, Held]:
        """The routes bare, and their adapters and references."""
        routes = self._learner.route(questions, episodes, seed, everyone)
        return replace(routes, adapters={}, references={}), _packed(routes.adapters), _packed(routes.references)

    def all_adapters(self, questions: Sequence[Question]) -> Held:
        return _packed(self._learner.router.all_adapters(questions))

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
        taken = self._learner.snapshot()
        fitted = SealedTensors.of(taken.fitted) if taken.fitted else {}
        return replace(taken, tensors=SealedTensors.of(taken.tensors), fitted=fitted)

    def restore(self, snapshot: Snapshot) -> None:
        self._learner.restore(snapshot)


def _packed(adapters: Mapping[tuple[int, str], Adapter]) -> Held:
    packed = pack_adapters(list(adapters.values()))
    return tuple(adapters), replace(packed, tensors=stored(packed.tensors))


def opened(bare: Routes, adapters: Held, references: Held, places: Places) -> Routes:
    """The routes as the loop sees them, their numbers arrays, which it passes on. Raises one of `store.LOST`."""
    return replace(bare, adapters=_opened(adapters, places), references=_opened(references, places))


def _opened(held: Held, places: Places) -> dict[tuple[int, str], Adapter]:
    keys, packed = held
    (at_hand,) = fetched([packed.tensors])
    opened_parts = unpack_adapters(replace(packed, tensors=at_hand), unpack_arrays)
    found = [adapter for adapter in opened_parts if adapter is not None]
    tensors = [t for adapter in found for part in adapter.parts for t in (part.values, part.mix) if t is not None]
    places.remember(tensors, packed.tensors)
    return dict(zip(keys, found, strict=True))
