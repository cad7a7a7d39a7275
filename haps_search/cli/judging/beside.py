"""References that cost seconds, for the table at the end of a replay sweep."""

from __future__ import annotations

from haps_search.cli.judging.verb import asked
from haps_search.config.references import (
    BestPerTaskReference,
    BestSingleReference,
    CheapestReference,
    KnnReference,
    PerQueryOracleReference,
    RandomReference,
    ReferencesConfig,
    RidgeReference,
)
from haps_search.config.run import Experiment
from haps_search.evaluation.replay.asked import measured
from haps_search.evaluation.replay.standings import label_of

CHEAP = (RandomReference(), BestSingleReference(), BestPerTaskReference(), KnnReference(), RidgeReference())


def beside(best: Experiment) -> dict[str, tuple[float, ...]]:
    """What cheap references earn on each validation question of a run, in the order of its task's questions.

    They read what the run's router reads, and are tuned on the folds that it was trained on. `haps evaluate` compares
    all references.
    """
    questions = asked(best, [best], "validation")
    priced = (CheapestReference(),) if questions[0].train.costs is not None else ()
    config = ReferencesConfig(compared=(*priced, *CHEAP, PerQueryOracleReference()))
    return {label_of(each.type): tuple(each.rewards.tolist()) for each in measured(questions, config)}
