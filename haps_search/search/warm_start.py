"""A run that begins where another one's high level ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from haps_search.config.learning import LearningConfig
from haps_search.config.routing import AnyBackbone, BackboneConfig, FeaturesBackboneConfig, ReadingLowLevel
from haps_search.config.run import Experiment
from haps_search.errors import CheckpointError, ConfigError
from haps_search.records.remote import pulled
from haps_search.records.run_folder import RunFolder
from haps_search.records.standing import standing
from haps_search.search.engine import Engine
from haps_search.types import POOLED, START, Snapshot

_log = logging.getLogger(__name__)
_TAKEN, _LOW = ("router.high.", "router.backbone."), ("router.low.", "router.low_backbone.")
_READS_FIRST = ("router.backbone.layers.0", "router.high.linear")


def warm_source(experiment: Experiment, folder: Path) -> Path | None:
    """The run that `run.warm_start` names, None where it names none; a bare NAME is looked for above `folder`.

    Raises:
        ConfigError: no such run, or one that reads or routes otherwise than this experiment.
    """
    name = experiment.run.warm_start
    if name is None:
        return None
    # A run lies in runs/NAME, a trial in runs/NAME/trials/NUMBER.
    places = [Path(name)] if Path(name).is_absolute() else [above / name for above in list(folder.parents)[:3]]
    found = next((place for place in map(standing, places) if (pulled(place) / "experiment.json").exists()), None)
    if found is None:
        tried = ", ".join(map(str, places))
        raise ConfigError(f"run.warm_start: no run {name} (looked for {tried}); `haps warmup` makes one")
    theirs = RunFolder.experiment_of(found)
    problems = _mismatches(_reading(theirs), _reading(experiment))
    if experiment.run.warm_start_low:
        if theirs.routing.lora != experiment.routing.lora:
            problems.append("routing.lora: with run.warm_start_low it must be the same as there")
        wrong = _mismatches(_generating(theirs), _generating(experiment))
        problems += [f"{each}, or run.warm_start_low: false" for each in wrong]
    if problems:
        raise ConfigError(problems, f"run.warm_start {found}")
    return found


def _mismatches(its: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """What would make the same weights decide otherwise, or know what they must not."""
    return [
        f"{what}: that run has {its[what]}, this one {own[what]}; they must be the same"
        for what in own
        if its[what] != own[what] and its[what] and own[what]
    ]


def _reading(experiment: Experiment) -> dict[str, str]:
    """What the same weights decide by; empty where an experiment has no such thing."""
    routing = experiment.routing
    cards = "; ".join(c.description for c in experiment.candidates) if routing.prompt == "full" else ""
    return {
        "candidates (names and order)": ", ".join(c.name for c in experiment.candidates),
        "candidates' descriptions, which the full prompt shows": cards,
        "routing.prompt": routing.prompt,
        **_backbone(routing.backbone),
        "routing.high_level.ids": str(getattr(routing.high_level, "ids", "")),
        "routing.high_level.temperature": str(getattr(routing.high_level, "temperature", "")),
        "routing.high_level.max_joint": str(getattr(routing.high_level, "max_joint", "")),
        "learning.cost_conditioned": str(experiment.learning.cost_conditioned or ""),
        **_held_out(experiment),
        **_headings(experiment),
    }


def _generating(experiment: Experiment) -> dict[str, str]:
    """What the same weights of a low level generate by; empty where it has no such thing."""
    low = experiment.routing.low_level
    pooled = low.pooled if isinstance(low, ReadingLowLevel) else None
    return {
        "routing.low_level.scale_output": str(getattr(low, "scale_output", "")),
        "routing.low_level.pooled.of": str(getattr(pooled, "of", "")),
        "routing.low_level.pooled.standardised": str(getattr(pooled, "standardised", "")),
    }


def _held_out(experiment: Experiment) -> dict[str, str]:
    """What a replay keeps from its router, which weights of another replay may know."""
    task = experiment.task if experiment.task.type == "replay" else None
    return {f"task.{name}": str(getattr(task, name, "")) for name in ("held_out", "splits", "folds", "fold")}


def _headings(experiment: Experiment) -> dict[str, str]:
    """Features of a text's first line mean something else where it is not the name of a task."""
    backbone = experiment.routing.backbone
    read = backbone.features if isinstance(backbone, FeaturesBackboneConfig) else ()
    named = "yes" if getattr(experiment.task, "task_name", False) else "no"
    reads = any(each.type == "heading" for each in read)
    return {"a task's name before each question, which heading features read": named if reads else ""}


def _backbone(config: AnyBackbone) -> dict[str, str]:
    lm = config if isinstance(config, BackboneConfig) else None
    features = config.features if isinstance(config, FeaturesBackboneConfig) else ()
    return {
        "routing.backbone.type": config.type,
        "routing.backbone.source": lm.source.model_dump_json() if lm else "",
        "routing.backbone.max_tokens": str(lm.max_tokens) if lm else "",
        "routing.backbone.tuning.alpha": str(getattr(lm.tuning, "alpha", "")) if lm else "",
        "routing.backbone.features": "; ".join(each.model_dump_json() for each in features),
    }


async def warm_start(engine: Engine, experiment: Experiment, folder: Path) -> None:
    """Lay the high level and backbone of `run.warm_start` over a fresh router; does nothing where none is named.

    Raises:
        ConfigError: as in `warm_source`. CheckpointError: no checkpoint there, or weights that do not fit.
    """
    source = warm_source(experiment, folder)
    if source is None:
        return
    best = RunFolder(source, RunFolder.experiment_of(source)).best()
    if best is None:
        raise CheckpointError(f"{source}: no validated checkpoint to start from; let that run reach its first one")
    taken = best.snapshot
    if experiment.learning.cost_conditioned is None:
        taken = unconditioned(taken, RunFolder.experiment_of(source).learning)
    begun = warmed(await engine.snapshot(), taken, experiment.run.warm_start_low)
    await engine.restore(held(begun) if experiment.learning.kl_to == "start" else begun)
    _log.info("started from %s, step %d", source, best.step)


def unconditioned(snapshot: Snapshot, learning: LearningConfig) -> Snapshot:
    """A router that reads what cost weighs as one that does not, and decides as at the weight `cost_weight`.

    W [h; w] + b = W_h h + (w W_w + b) where w is always the same.
    """
    if learning.cost_conditioned is None:
        return snapshot
    first = next(name for name in _READS_FIRST if f"{name}.weight" in snapshot.tensors)
    weight, bias = snapshot.tensors[f"{first}.weight"], snapshot.tensors[f"{first}.bias"]
    moved = bias + learning.cost_conditioned.told(learning.cost_weight) * weight[:, -1]
    folded = {f"{first}.weight": weight[:, :-1].contiguous(), f"{first}.bias": moved}
    return replace(snapshot, tensors={**snapshot.tensors, **folded})


def warmed(fresh: Snapshot, source: Snapshot, low: bool = False) -> Snapshot:
    """A fresh router's snapshot with the learned high level and backbone of another.

    What the other did not learn stays as it is; low level, optimiser and version are the fresh router's, and how the
    low level's input is standardised is taken anew, by the other's backbone. With `low` these are the other's as well;
    a static adapter becomes the base of one that has a residual.

    Raises:
        CheckpointError: learned weights that this router has no place for, which alone would decide otherwise.
    """
    kept = (*_TAKEN, *_LOW) if low else _TAKEN
    taken = {_place(n, fresh): value for n, value in source.tensors.items() if n.startswith(kept)}
    misfits = [n for n, v in taken.items() if n not in fresh.tensors or fresh.tensors[n].shape != v.shape]
    if misfits or not taken:
        named = ", ".join(n.removeprefix("router.") for n in misfits[:5]) or "it learned none"
        raise CheckpointError(
            f"run.warm_start: {'low level, ' if low else ''}high level and backbone of that run do not fit this router "
            f"({named}): set routing.high_level, routing.backbone.tuning{', routing.low_level' if low else ''} and the "
            "task's roles as they are there, or warm_start: null"
        )
    own = [n for n in source.fitted if n.startswith((POOLED, START))]
    stays = [n for n in own if low and n in fresh.fitted]
    fitted = {n: value for n, value in source.fitted.items() if n not in own or n in stays}
    return Snapshot({**fresh.tensors, **taken}, fresh.state, fitted)


def held(begun: Snapshot) -> Snapshot:
    """The same, and the low level that it begins with for the KL to hold to."""
    low = {n.removeprefix("router.low."): v for n, v in begun.tensors.items() if n.startswith("router.low.")}
    return replace(begun, fitted={**begun.fitted, **{f"{START}{name}": value for name, value in low.items()}})


def _place(name: str, fresh: Snapshot) -> str:
    """A static adapter's place in a router where it has a residual."""
    based = name.removesuffix("values") + "base.values"
    return based if name not in fresh.tensors and based in fresh.tensors else name
