"""Opponents that learn, each searched in a space of its own at the best trial's other settings. Knows no Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from haps_search.config.conditions import canonical
from haps_search.config.distributions import Distribution, LogRange
from haps_search.config.learning import LearningRates
from haps_search.config.opponents import BASES, Learning, Opponent
from haps_search.config.routing import GeneratedLowLevel
from haps_search.config.samplers import RandomSampler, TpeSampler
from haps_search.config.search_checks import within
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.evaluation.labels import ARCHITECTURE_ONLY, PLAIN_LORA, STATIC
from haps_search.sweep.events import Kind, TrialRecord
from haps_search.sweep.ranking import best_first
from haps_search.sweep.repeats import groups, wanting
from haps_search.sweep.settings import Setting, confirmations, experiment_of
from haps_search.sweep.space import apply

LABELS: dict[Learning, str] = {"architecture_only": ARCHITECTURE_ONLY, "static": STATIC, "plain_lora": PLAIN_LORA}
LOW, HIGH = "learning.learning_rate.low", "learning.learning_rate.high"
_LEVEL = "routing.low_level"
_BOUNDS = ("max_relative_norm", "max_relative_spectral_norm")


@dataclass(frozen=True)
class Search:
    """One search of a sweep: the study's own, or an opponent's, whose trials bear its `label` and `fixed` parameters
    beside those that are drawn. `study` has the space and what it is searched with."""

    study: Study
    kind: Kind = "search"
    label: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def own(self, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Its trials among a sweep's, as search trials of `study`."""
        if self.kind == "search":
            return [t for t in trials if t.kind == "search"]
        return [replace(t, kind="search") for t in trials if self._is_own(t)]

    def _is_own(self, trial: TrialRecord) -> bool:
        drawn = {name: value for name, value in trial.parameters.items() if name in self.study.space}
        rest = {name: value for name, value in trial.parameters.items() if name not in drawn}
        named = trial.kind == self.kind and trial.label == self.label
        # Sweeps from before opponents had spaces kept other values under the same names.
        same = named and canonical(rest) == canonical(dict(self.fixed))
        return same and all(within(value, self.study.space[name]) for name, value in drawn.items())

    def setting(self, drawn: Mapping[str, Any], seed: int, of: int | None = None) -> Setting:
        """A trial to run."""
        return Setting({**self.fixed, **drawn}, seed, self.kind, self.label, of)

    def wanting(self, trials: Iterable[TrialRecord]) -> list[Setting]:
        """Runs that its begun settings still lack on further seeds."""
        lacking = wanting(self.study, self.own(trials))
        return lacking if self.kind == "search" else [replace(s, kind=self.kind, label=self.label) for s in lacking]

    def begun(self, trials: Iterable[TrialRecord]) -> int:
        """How many settings were begun."""
        return len(groups(self.own(trials)))

    def ranked(self, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Settings with a result, best first, as the sweep knows them."""
        best = best_first(self.study, self.own(trials))
        return [replace(t, kind=self.kind) for t in best]


def opponents(study: Study, best: TrialRecord) -> dict[Learning, Search]:
    """The searches of a study's opponents; none for the tables of a replay, whose candidates take no adapter, and none
    that the best trial is itself."""
    if not study.sweep.comparison or study.experiment.task.type == "replay":
        return {}
    same, asked = rows_own(study, best), study.sweep.opponents.learning
    searches = {name: _search(study, best, name, opponent) for name, opponent in asked.items() if name != same}
    return {name: search for name, search in searches.items() if search is not None}


def rows_own(study: Study, best: TrialRecord) -> Learning | None:
    """The opponent that the best trial is itself, None where it is none."""
    level = experiment_of(study, best).routing.low_level.type
    return {"none": "architecture_only", "static": "static"}.get(level)  # type: ignore[return-value]


def trials_each(study: Study, name: Learning, searched: int) -> int:
    """How many settings an opponent gets where `match` is trials: as many as were `searched`, unless it says so."""
    opponent = study.sweep.opponents.learning[name]
    return opponent.trials or searched


def _search(study: Study, best: TrialRecord, name: Learning, opponent: Opponent) -> Search | None:
    """None where the experiment cannot be this opponent: what teaches adapters cannot teach a router without any."""
    fixed = _fixed(study, best, name, opponent)
    space = opponent.space if opponent.space is not None else _own_space(study, best, name)
    fixed = {path: value for path, value in fixed.items() if path not in space}
    sampler = study.sweep.sampler if isinstance(study.sweep.sampler, TpeSampler | RandomSampler) else TpeSampler()
    sweep = study.sweep.model_copy(update={"sampler": sampler, "enqueue": ()})
    try:
        experiment = apply(study.experiment, fixed)
    except ConfigError:
        return None
    searched = study.model_copy(update={"experiment": experiment, "space": space, "sweep": sweep, "arms": {}})
    return Search(searched, "comparison", LABELS[name], fixed)


def _fixed(study: Study, best: TrialRecord, name: Learning, opponent: Opponent) -> dict[str, Any]:
    """The best trial's parameters without those of its low level, what makes the opponent itself, and its settings."""
    experiment = experiment_of(study, best)
    routing, low = experiment.routing, experiment.routing.low_level
    fixed = {k: v for k, v in best.parameters.items() if k != _LEVEL and not k.startswith(f"{_LEVEL}.")}
    if name == "plain_lora":
        fixed = {k: v for k, v in fixed.items() if k not in BASES[name]}
    if not routing.share_backbone:  # no opponent has a low level that reads one
        fixed["routing.share_backbone"] = True
    if experiment.run.warm_start_low:  # its adapters are not the opponent's; `settings` may name others
        fixed |= {"run.warm_start_low": False, "learning.kl_to": "frozen"}
    if name != "architecture_only" and isinstance(low, GeneratedLowLevel) and low.residual_of is not None:
        fixed["routing.lora.rank"] = 2 * routing.lora.rank  # what a static adapter and its residual have together
    base = {path: dict(value) if isinstance(value, dict) else value for path, value in BASES[name].items()}
    if name == "static":
        leash = {bound: getattr(low, bound) for bound in _BOUNDS if hasattr(low, bound)}
        base[_LEVEL] |= leash
    return {**fixed, **base, **opponent.settings}


def _own_space(study: Study, best: TrialRecord, name: Learning) -> dict[str, Distribution]:
    """An opponent's learning rates, wherever the experiment or a stage of it says one."""
    space: dict[str, Distribution] = {}
    if name != "architecture_only":
        space |= {path: LogRange(type="log", low=3e-4, high=3e-2) for path, _ in _places(study, best, LOW)}
    for path, rates in _places(study, best, HIGH):
        searched = study.space.get(path)
        if searched is not None and not searched.when:
            space[path] = searched
        elif name == "architecture_only":
            space[path] = LogRange(type="log", low=rates.high / 10, high=rates.high * 10)
    return space


def _places(study: Study, best: TrialRecord, path: str) -> list[tuple[str, LearningRates]]:
    """Where this learning rate is said, and what the best trial has there: in stages, and in the experiment unless all
    of them say it."""
    experiment = experiment_of(study, best)
    said = [any(f"{path}.".startswith(f"{key}.") for key in stage) for stage in experiment.stages]
    found = [] if said and all(said) else [(path, experiment.learning.learning_rate)]
    played = zip(experiment.played(), said, strict=False)
    return found + [
        (f"stages.{index}.{path}", stage.learning.learning_rate) for index, (stage, own) in enumerate(played) if own
    ]


def opponents_again(study: Study, best: TrialRecord, trials: Sequence[TrialRecord], seeds: int) -> list[Setting]:
    """The best setting of each opponent that has one, on the fresh seeds of `confirmations`."""
    found = []
    for search in opponents(study, best).values():
        for record in search.ranked(trials)[:1]:
            again = confirmations(study, [record], 1, seeds)
            found += [replace(setting, label=search.label) for setting in again]
    return found


def spent(trials: Sequence[TrialRecord]) -> float:
    """Seconds that runs took, as their last reports say; 0 for those that never reported."""
    return sum(t.reports[-1][1].get("run_seconds", 0.0) for t in trials if t.reports)
