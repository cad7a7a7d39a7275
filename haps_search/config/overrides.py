"""Values that stand beside a file and are laid over it: `--set`, and the parameters of a trial."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from haps_search.config.document import FROM_OVERRIDE, Problem, Where, scalar
from haps_search.config.placing import put, replaced
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError


def override(data: Any, lines: dict[Where, int], settings: Sequence[str]) -> list[Problem]:
    """Apply `path=value` settings to a study's plain values and mark the paths in `lines`.

    A path that starts with a field of `experiment` is taken inside it. Returns what could not be applied.
    """
    problems = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        try:
            if not equals or not path:
                raise ConfigError(f"got {setting!r}, needs path=value, as in run.steps=10")
            full, value = _full(path.strip()), scalar(text)
            put(Study, copy.deepcopy(data), full, value)  # a path refused half-way must leave nothing behind
            where = put(Study, data, full, value)
            for below in [w for w in lines if w[: len(where)] == where]:
                del lines[below]
            lines[where] = FROM_OVERRIDE
        except ConfigError as error:
            problems += [Problem((path or setting,), text, FROM_OVERRIDE) for text in error.problems]
    return problems


def _full(path: str) -> str:
    return f"experiment.{path}" if path.split(".")[0] in Experiment.model_fields else path


def with_parameters(experiment: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an experiment's plain values with dotted paths replaced, wholes before their parts.

    Raises:
        ConfigError: a path that no experiment has.
    """
    return replaced(Experiment, experiment, parameters)
