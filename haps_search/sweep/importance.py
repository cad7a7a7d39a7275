"""How much each parameter mattered, by Optuna. At the rim, because Optuna is imported here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from haps_search.config.sweep import Study
from haps_search.report.parameters import Importance
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.tune import optuna_study

EVALUATOR = "PED-ANOVA (what sets the best tenth of the trials apart)"


def importances(study: Study, trials: Sequence[TrialRecord]) -> tuple[Importance, ...]:
    """One per objective over the search trials with a result; objectives on which all agree are left out.

    PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255) compares the distribution of each parameter among the
    best trials with its distribution among all.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    built = optuna_study(study, [t for t in trials if t.kind == "search"])
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


def _loss(place: int, maximise: bool) -> Callable[[FrozenTrial], float]:
    """PED-ANOVA takes low values for good ones."""
    return lambda trial: -trial.values[place] if maximise else trial.values[place]
