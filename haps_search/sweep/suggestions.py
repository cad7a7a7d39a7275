"""What is tried next, and which parameters mattered, by Optuna, as a function of the journal.

The study is built anew for each suggestion and its sampler seeded by the trial's number, so that a suggestion depends
on nothing that a kill could lose.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from haps_search.config.conditions import active, ordered
from haps_search.config.distributions import Choice
from haps_search.config.samplers import CmaEsSampler, GpSampler, GridSampler, RandomSampler, TpeSampler
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.seeds import derive_seed
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.prior import Known
from haps_search.sweep.repeats import searched
from haps_search.sweep.space import encoded, grid, suggest
from haps_search.sweep.telling import optuna_study, placed, quiet, told

if TYPE_CHECKING:
    from haps_search.report.parameters import Importance


def suggestion(
    study: Study, trials: Iterable[TrialRecord], number: int, known: Sequence[Known] = ()
) -> dict[str, Any] | None:
    """The parameters of search trial `number` given all trials so far; None where a grid has no more.

    What is enqueued comes first, its missing parameters drawn by the sampler.
    """
    settings = searched(trials, study.sweep.seeds_per_trial)
    sampler = study.sweep.sampler
    if isinstance(sampler, GridSampler):
        points = list(grid(study.space))
        return points[len(settings)] if len(settings) < len(points) else None
    with quiet():
        if isinstance(sampler, CmaEsSampler):
            built = _replayed(study, settings, known, sampler)
        else:
            built = optuna_study(study, settings, known, _sampler(study, sampler, number))
        if len(settings) < len(study.sweep.enqueue):
            built.enqueue_trial(_drawn(study, study.sweep.enqueue[len(settings)]))
        return suggest(study.space, built.ask())


def check_sampler(study: Study) -> None:
    """Raises ConfigError where the sampler needs a library that is not installed."""
    if isinstance(study.sweep.sampler, CmaEsSampler) and find_spec("cmaes") is None:
        raise ConfigError("sweep.sampler: cmaes needs the library of that name: pip install 'haps-search[cmaes]'")


def _sampler(study: Study, sampler: TpeSampler | GpSampler | RandomSampler, number: int) -> BaseSampler:
    seed = derive_seed(study.sweep.seed, "suggest", number) % 2**31
    if isinstance(sampler, RandomSampler):
        return optuna.samplers.RandomSampler(seed=seed)
    if isinstance(sampler, GpSampler):
        return optuna.samplers.GPSampler(
            seed=seed,
            n_startup_trials=sampler.startup_trials,
            deterministic_objective=sampler.deterministic,
            warn_independent_sampling=False,
        )
    joint = sampler.multivariate
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=sampler.startup_trials,
        n_ei_candidates=sampler.candidates,
        multivariate=len(study.sweep.objectives) == 1 if joint is None else joint,
        group=sampler.group,
        constant_liar=sampler.constant_liar,
    )


def _replayed(
    study: Study, settings: Sequence[TrialRecord], known: Sequence[Known], options: CmaEsSampler
) -> optuna.Study:
    """A study whose CMA-ES has gone through all trials in order: its mean and covariance live in the trials it was
    asked for, and a journal has none of that."""
    sampler = optuna.samplers.CmaEsSampler(
        seed=derive_seed(study.sweep.seed, "suggest") % 2**31,
        sigma0=options.sigma,
        n_startup_trials=options.startup_trials,
        popsize=options.population,
        use_separable_cma=options.separable,
        with_margin=options.margin,
        consider_pruned_trials=False,
        warn_independent_sampling=False,
    )
    built = optuna_study(study, [], sampler=sampler)
    for past in told(study, settings, known):
        built.enqueue_trial(past.params)
        trial = built.ask()
        _ = trial.relative_params  # drawn and noted down in the trial, although it takes the values it had
        suggest(study.space, trial)
        if past.state == TrialState.COMPLETE:
            built.tell(trial, past.values)
        elif past.state != TrialState.RUNNING:
            built.tell(trial, state=TrialState.FAIL)
    return built


def _drawn(study: Study, setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting as Optuna draws it: a choice of lists is one of texts there."""
    drawn = dict(setting)
    for name in ordered(study.space):
        distribution = study.space[name]
        if name in setting and isinstance(distribution, Choice) and active(name, study.space, setting):
            drawn[name] = encoded(distribution.values)[placed(study.space, name, setting[name])]
    return drawn


EVALUATOR = "PED-ANOVA (what sets the best tenth of the trials apart)"


def importances(study: Study, trials: Sequence[TrialRecord]) -> tuple[Importance, ...]:
    """One per objective over the search trials with a result; objectives on which all agree are left out.

    PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255) compares the distribution of each parameter among the
    best trials with its distribution among all.
    """
    # scikit-learn and matplotlib, which no suggestion needs
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from haps_search.report.parameters import Importance

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    built = optuna_study(_all_complete(study), trials)
    complete = [t for t in built.trials if t.state == TrialState.COMPLETE]
    found = []
    for place, objective in enumerate(study.sweep.objectives):
        if len({t.values[place] for t in complete}) < 2:
            continue
        with warnings.catch_warnings():
            # It says that low values count as good, which `_loss` sees to.
            warnings.simplefilter("ignore", UserWarning)
            values = get_param_importances(
                built, evaluator=PedAnovaImportanceEvaluator(), target=_loss(place, objective.mode == "max")
            )
        found.append(Importance(objective.metric, EVALUATOR, len(complete), values))
    return tuple(found)


def _all_complete(study: Study) -> Study:
    """What was stopped is not among the best tenth, and has its say in what all were."""
    sampler = RandomSampler()  # whose trials are never told as pruned
    return study.model_copy(update={"sweep": study.sweep.model_copy(update={"sampler": sampler})})


def _loss(place: int, maximise: bool) -> Callable[[FrozenTrial], float]:
    """PED-ANOVA takes low values for good ones."""
    return lambda trial: -trial.values[place] if maximise else trial.values[place]
