"""What trials may change of the candidates that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from haps_search.config.candidates import CandidateConfig, Price
from haps_search.config.document import Problem
from haps_search.config.explain import validate
from haps_search.config.run import Experiment


def pool_problems(experiment: Mapping[str, Any], changed: Mapping[str, Any]) -> list[Problem]:
    """Candidates of a changed experiment that the pool does not host: it holds the experiment's own, once for all
    trials. Fewer of them, another order, descriptions and prices are the trial's affair.
    """
    ours, theirs = validate(Experiment, experiment)[0], validate(Experiment, changed)[0]
    if ours is None or theirs is None:
        return []
    hosted = {c.name: _hosted(c) for c in ours.candidates}
    return [
        Problem(
            ("candidates",),
            f"{c.name} is not hosted like this: all trials share the pool of experiment.candidates, so list it there, "
            "under a name of its own, and choose among those names",
        )
        for c in theirs.candidates
        if _hosted(c) != hosted.get(c.name)
    ]


def _hosted(candidate: CandidateConfig) -> CandidateConfig:
    """Without what only routers and costs look at."""
    return candidate.model_copy(update={"description": "", "price": Price()})
