"""What another sweep found out, where it is about the same thing: results a new sweep begins with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from haps_search.config.anchors import unplaced
from haps_search.config.conditions import active, ordered, same
from haps_search.config.distributions import Choice, IntRange
from haps_search.config.run import Experiment
from haps_search.config.search_checks import within
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.records.fingerprint import differences
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.repeats import searched
from haps_search.sweep.settings import experiment_of
from haps_search.sweep.space import apply

_FREE = ("seed", "checkpoint_every", "keep_checkpoints", "record_every")
"""Of a run: what a result of another sweep may have had otherwise."""


@dataclass(frozen=True, slots=True)
class Known:
    """A finished setting of another sweep, in the words of this one's space."""

    trial: int
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Prior:
    """What a sweep knew that is of use here. `left_out` counts, by reason, the results that are not."""

    sweep: str
    known: tuple[Known, ...]
    left_out: Mapping[str, int]


def prior_of(name: str, other: Study, trials: Sequence[TrialRecord], study: Study) -> Prior:
    """The finished settings of sweep `name` that `study` could have drawn, everything outside the space being equal.

    A parameter that the other sweep did not search has the value that its experiment held.

    Raises:
        ConfigError: none is left, with the commonest reason.
    """
    known, left_out = [], Counter[str]()
    for trial in searched(trials, other.sweep.seeds_per_trial):
        found = _known(trial, other, study)
        if isinstance(found, Known):
            known.append(found)
        else:
            left_out[found] += 1
    if not known:
        reason = left_out.most_common(1)[0][0] if left_out else "it has no search trial"
        raise ConfigError(f"--like {name}: no result of it is one of this study: {reason}; name settings in enqueue")
    return Prior(name, tuple(known), dict(left_out))


def _known(trial: TrialRecord, other: Study, study: Study) -> Known | str:
    """The trial as this study's, or why it is not."""
    if trial.state != "finished":
        return f"it is {trial.state}"
    asked = study.sweep.values(trial.metrics)
    lacking = [name for name, value in asked.items() if not math.isfinite(value)]
    if lacking:
        return f"it has no {lacking[0]}"
    theirs = experiment_of(other, trial)
    parameters = _setting(theirs, study)
    if isinstance(parameters, str):
        return parameters
    elsewhere = differences(_compared(theirs), _compared(apply(study.experiment, parameters)))
    if elsewhere:
        return f"outside the space it ran with {elsewhere[0]}"
    return Known(trial.number, parameters, asked)


def _setting(experiment: Experiment, study: Study) -> dict[str, Any] | str:
    """The study's active parameters as an experiment has them, or the one that the space could not draw."""
    plain, chosen = experiment.model_dump(mode="json"), dict[str, Any]()
    for name in ordered(study.space):
        if active(name, study.space, chosen):
            value = _at(plain, name)
            drawn = list(islice(_drawn(value, name, chosen, study), 1))
            if not drawn:
                return f"the space cannot draw {name} = {value}"
            chosen[name] = drawn[0]
    return chosen


def _drawn(value: Any, name: str, chosen: Mapping[str, Any], study: Study) -> Iterator[Any]:
    """What the space draws for an experiment's value: the value itself, an integer for a whole float, a choice that is
    this value when laid over the experiment, which fills in what a mapping leaves out."""
    distribution = study.space[name]
    if within(value, distribution):
        yield value
    if isinstance(distribution, IntRange) and isinstance(value, float) and value.is_integer():
        yield from (whole for whole in (int(value),) if within(whole, distribution))
    for each in distribution.values if isinstance(distribution, Choice) else ():
        try:
            laid = apply(study.experiment, {**chosen, name: each})
        except ConfigError:
            continue
        if same(_at(laid.model_dump(mode="json"), name), value):
            yield each


def _at(plain: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        if isinstance(plain, list):
            plain = plain[int(part)] if part.isdigit() and int(part) < len(plain) else None
        else:
            plain = plain.get(part) if isinstance(plain, Mapping) else None
    return plain


def _compared(experiment: Experiment) -> Mapping[str, Any]:
    return dict(unplaced(experiment.model_dump(mode="json", exclude={"engine": True, "run": set(_FREE)})))
