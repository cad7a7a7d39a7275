"""A trial's parameters laid over an experiment."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from haps_search.config.overrides import put
from haps_search.config.run import Experiment


def with_parameters(experiment: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an experiment's plain values with dotted paths replaced, wholes before their parts.

    Raises:
        ConfigError: a path that no experiment has.
    """
    changed = copy.deepcopy(dict(experiment))
    for path in sorted(parameters, key=_wholes_first):
        put(Experiment, changed, path, copy.deepcopy(parameters[path]))
    return changed


def _wholes_first(path: str) -> tuple[int, bool]:
    """A variant is chosen before its fields are set."""
    return path.count("."), not path.endswith(".type")
