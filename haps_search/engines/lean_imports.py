"""What torch and transformers import for compiled and sharded models, left out of processes that do neither.

A third of what it takes a worker to begin is the import of torch's compiler, which transformers marks functions for, of
sharded tensors, and of an assignment solver (scipy). What is left out is loaded when somebody asks for more than marks.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any

from haps_search.config.candidates import BALANCED, CandidateConfig
from haps_search.config.routing import BackboneConfig

TRIED = {"torch": "2.13.", "transformers": "5.23."}
"""Versions whose insides this knows; with any other everything is imported."""
_COMPILER = "torch._dynamo"
_NEEDED = f"{_COMPILER}._trace_wrapped_higher_order_op"
"""What masks of attention are made with; it needs nothing else of the compiler."""
_UNUSED = "is_scipy_available", "is_torch_distributed_available", "is_accelerate_available"
"""What transformers takes for not installed: losses of object detection, sharded models, and what spreads one model
over several devices."""


def import_lean(model: CandidateConfig | BackboneConfig) -> None:
    """In a process that is to hold this model only, before transformers' models are imported. It changes nothing where
    they are already, where the model brings code of its own, or lies on several devices, or with versions not tried."""
    if "transformers.modeling_utils" in sys.modules or model.trust_remote_code or model.device == BALANCED:
        return
    if not all(version(name).startswith(known) for name, known in TRIED.items()):
        return
    import torch
    import transformers.utils

    if _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = torch._dynamo = _NothingCompiled(_COMPILER)
        importlib.import_module(_NEEDED)
        sys.meta_path.insert(0, _Whole())
    for name in _UNUSED:
        for module in (transformers.utils.import_utils, transformers.utils):
            setattr(module, name, _no)


def _no(*_: object, **__: object) -> bool:
    return False


def _unmarked(function: Any = None, *_: object, **__: object) -> Any:
    """The function as it is; also as a decorator with arguments."""
    return function if function is not None else _unmarked


class _NothingCompiled(ModuleType):
    """torch._dynamo before anything is compiled: its marks say nothing yet. Whatever else is asked of it is the real
    one's, which then takes its place."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.util.find_spec(name)
        assert self.__spec__ is not None
        self.__path__ = list(self.__spec__.submodule_search_locations or ())
        self.disable = self.allow_in_graph = self.assume_constant_result = _unmarked
        self.mark_static_address = self.graph_break = _no

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> ModuleType:
    import torch

    if isinstance(sys.modules[_COMPILER], _NothingCompiled):
        del sys.modules[_COMPILER]
        torch._dynamo = importlib.import_module(_COMPILER)
    return sys.modules[_COMPILER]


class _Whole:
    """Sees to it that who imports a part of the compiler gets the whole first, and no part twice."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if not (name.startswith(f"{_COMPILER}.") and isinstance(sys.modules.get(_COMPILER), _NothingCompiled)):
            return None
        _real()
        return ModuleSpec(name, _Loaded()) if name in sys.modules else None


class _Loaded(Loader):
    """A module that was imported meanwhile."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        return None
