"""Settings that are not searched for but wanted: arms, and confirmations on new seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.seeds import derive_seed
from haps_search.sweep.events import Kind, TrialRecord
from haps_search.sweep.space import apply

QUESTIONS = ("choosing_share", "drawn")
"""Of `run.validation`: which questions choose, and which of these validate a run."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A trial to run: parameters over the study's experiment, and the run's seed."""

    parameters: Mapping[str, Any]
    seed: int
    kind: Kind = "search"
    label: str = ""
    of: int | None = None
    """The search trial whose setting this repeats."""


def experiment_of(study: Study, record: TrialRecord | Setting) -> Experiment:
    """The experiment that a trial runs. Raises ConfigError for parameters the experiment refuses."""
    return apply(study.experiment, {**record.parameters, "run.seed": record.seed})


def arms(study: Study) -> list[Setting]:
    """Every arm on every seed, one seed after another, so that an unfinished sweep has whole comparisons."""
    return [
        Setting(parameters, seed, label=name) for seed in study.sweep.seeds for name, parameters in study.arms.items()
    ]


def with_questions_of(study: Study, begun: Experiment) -> Study:
    """The study whose validation questions choose, and validate a run, as in what was begun."""
    kept = {f"run.validation.{name}": getattr(begun.run.validation, name) for name in QUESTIONS}
    return study.model_copy(update={"experiment": apply(study.experiment, kept)})


def with_dtypes_of(study: Study, begun: Experiment) -> Study:
    """The study in which each `dtype: auto` of a candidate is what that of the same name was begun with."""
    known = {c.name: c.dtype for c in begun.candidates}
    candidates = tuple(
        c.model_copy(update={"dtype": known.get(c.name, c.dtype)}) if c.dtype == "auto" else c
        for c in study.experiment.candidates
    )
    return study.model_copy(update={"experiment": study.experiment.model_copy(update={"candidates": candidates})})


def confirmations(study: Study, ranked: Sequence[TrialRecord], top: int, seeds: int) -> list[Setting]:
    """The best `top` settings again, each on the same `seeds` seeds that no search trial has used.

    In replay each seed validates on another fold, the searched one last, so that their mean is over folds too.

    Raises:
        ConfigError: fewer finished trials than asked for.
    """
    if len(ranked) < top:
        raise ConfigError(f"confirm: {len(ranked)} finished trials, {top} asked for; resume the sweep or ask for less")
    fresh = [derive_seed(study.experiment.run.seed, "confirm", i) % 2**31 for i in range(seeds)]
    return [
        Setting({**record.parameters, **_fold(study, i)}, seed, "confirm", f"trial {record.number}")
        for record in ranked[:top]
        for i, seed in enumerate(fresh)
    ]


def _fold(study: Study, index: int) -> dict[str, int]:
    task = study.experiment.task
    return {"task.fold": (task.fold + 1 + index) % task.rotation} if task.type == "replay" else {}


def missing(settings: Sequence[Setting], trials: Sequence[TrialRecord]) -> list[Setting]:
    """Those that no trial of the journal stands for yet."""
    there = [(dict(t.parameters), t.seed, t.kind, t.label) for t in trials]
    return [s for s in settings if (dict(s.parameters), s.seed, s.kind, s.label) not in there]
