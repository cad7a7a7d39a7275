"""The journal's trials as Optuna's: what was drawn, how it ended, and what is told of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from haps_search.config.conditions import Space, canonical, finite
from haps_search.config.samplers import TpeSampler
from haps_search.config.sweep import Study
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.prior import Known
from haps_search.sweep.repeats import searched
from haps_search.sweep.space import suggest

_DIRECTIONS = {"max": "MAXIMIZE", "min": "MINIMIZE"}


def directions(study: Study) -> list[optuna.study.StudyDirection]:
    """One for each objective."""
    return [optuna.study.StudyDirection[_DIRECTIONS[o.mode]] for o in study.sweep.objectives]


def optuna_study(
    study: Study,
    trials: Iterable[TrialRecord],
    known: Sequence[Known] = (),
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """An Optuna study that stands for the journal: also for Optuna's own plots and importances.

    What another sweep knew comes first; runs of one setting are one trial.
    """
    built = optuna.create_study(directions=directions(study), sampler=sampler)
    built.add_trials(told(study, trials, known))
    return built


def told(study: Study, trials: Iterable[TrialRecord], known: Sequence[Known] = ()) -> list[FrozenTrial]:
    """The search trials as Optuna is told of them, in order."""
    settings = searched(trials, study.sweep.seeds_per_trial)
    return [*(_from_elsewhere(study, each) for each in known), *(frozen(study, each) for each in settings)]


def frozen(study: Study, trial: TrialRecord) -> FrozenTrial:
    """One searched setting, with its curve; a trial without finite values of all that is asked has failed."""
    state, values = _state(study, trial)
    recorded = _recorded(study, trial.parameters)
    return create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=recorded.params,
        distributions=recorded.distributions,
        user_attrs={"trial": trial.number},
        intermediate_values=_curve(study, trial),
        constraints=_constraints(study, trial.metrics) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
    )


def tells_pruned(study: Study) -> bool:
    """Whether stopped trials are told as pruned: to TPE of one objective. Other samplers of Optuna's leave out what was
    pruned or cannot place it."""
    sampler = study.sweep.sampler
    return isinstance(sampler, TpeSampler) and sampler.stopped == "pruned" and len(study.sweep.objectives) == 1


def _state(study: Study, trial: TrialRecord) -> tuple[TrialState, list[float]]:
    values = [trial.metrics.get(o.metric, math.nan) for o in study.sweep.objectives]
    if not trial.ended:
        return TrialState.RUNNING, values
    bounded = [c.value(trial.metrics) for c in study.sweep.limits]
    if trial.state == "failed" or not all(map(math.isfinite, (*values, *bounded))):
        return TrialState.FAIL, values
    return TrialState.PRUNED if trial.state == "stopped" and tells_pruned(study) else TrialState.COMPLETE, values


def _from_elsewhere(study: Study, known: Known) -> FrozenTrial:
    recorded = _recorded(study, known.parameters)
    return create_trial(
        values=[known.metrics[o.metric] for o in study.sweep.objectives],
        params=recorded.params,
        distributions=recorded.distributions,
        user_attrs={"known": known.trial},
        constraints=_constraints(study, known.metrics),
    )


def _constraints(study: Study, metrics: Mapping[str, float]) -> dict[str, float] | None:
    return {str(c): c.excess(c.value(metrics)) for c in study.sweep.limits} or None


def _curve(study: Study, trial: TrialRecord) -> dict[int, float]:
    """Of the first objective, by step."""
    if len(study.sweep.objectives) > 1:
        return {}  # which Optuna refuses to read
    metric = study.sweep.objectives[0].metric
    points = {step: metrics.get(metric, math.nan) for step, metrics in trial.reports}
    return {step: value for step, value in points.items() if math.isfinite(value)}


def _recorded(study: Study, parameters: Mapping[str, Any]) -> _Recorded:
    recorded = _Recorded(study.space, parameters)
    suggest(study.space, recorded)
    return recorded


class _Recorded:
    """Replays a trial's values through `suggest`, to learn the distributions they were drawn from."""

    def __init__(self, space: Space, values: Mapping[str, Any]) -> None:
        self._space, self._values = space, values
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._keep(name, FloatDistribution(low, high, log=log), self._values[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return self._keep(name, IntDistribution(low, high, step=step), self._values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        place = placed(self._space, name, self._values[name])
        return self._keep(name, CategoricalDistribution(choices), choices[place])

    def _keep(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        self.params[name], self.distributions[name] = value, distribution
        return value


def placed(space: Space, name: str, value: Any) -> int:
    """A choice's place in the space: what is drawn may be a JSON text of the value, and 1 == True."""
    return [canonical(each) for each in finite(space[name]) or ()].index(canonical(value))


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's remarks on what is experimental, and on what is drawn independently."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
