"""A run in stages: what each of them changes, and what all have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from haps_search.config.complaints import validate
from haps_search.config.document import dotted
from haps_search.config.placing import replaced
from haps_search.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
CHANGING = ("learning", "run")
COMMON = (
    *("learning.cost_weight", "learning.cost_conditioned", "run.seed", "run.warm_start", "run.warm_start_low"),
    *("run.half", "run.warmup", "run.keep_checkpoints", "run.sampling.max_new_tokens"),
    *("run.validation.questions", "run.validation.choosing_share", "run.validation.drawn"),
)
"""What makes the router, its best step and its validations mean the same in all stages."""


def staged(root: type[Model], values: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> tuple[Model, ...]:
    """The experiments of a run's stages, from the experiment's plain values; a later one begins with the high and the
    low level of the one before, which it names as its `run.warm_start`.

    Raises:
        ValueError: `stages.INDEX.PATH: what is wrong there`, of the first that is wrong.
    """
    return tuple(_staged(root, {**values, "stages": []}, index, each) for index, each in enumerate(stages))


def _staged(root: type[Model], values: Mapping[str, Any], index: int, changes: Mapping[str, Any]) -> Model:
    for path in changes:
        _may_change(f"stages.{index}.{path}", path)
    try:
        changed = replaced(root, values, changes)
    except ConfigError as error:
        raise ValueError(f"stages.{index}: {error.problems[0]}") from error
    if index:
        low = changed["routing"]["low_level"]["type"] != "none"
        changed["run"] |= {"warm_start": f"stage {index}", "warm_start_low": low}
    found, problems = validate(root, changed)
    if found is None:
        first = problems[0]
        where = f".{dotted(first.where)}" if first.where else ""
        raise ValueError(f"stages.{index}{where}: {first.text}")
    return found


def _may_change(where: str, path: str) -> None:
    if path.split(".")[0] not in CHANGING:
        raise ValueError(f"{where}: stages differ in {' and '.join(CHANGING)} alone; set it in experiment")
    for common in COMMON:
        if f"{path}.".startswith(f"{common}."):
            raise ValueError(f"{where}: is the same in all stages; set it in experiment")
        if common.startswith(f"{path}."):
            raise ValueError(f"{where}: {common} is the same in all stages; write the keys below {path} one by one")
