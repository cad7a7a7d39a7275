"""What is said where two models stand to choose: how few calls of the better one recover how much of the gap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.measure import Measured
from haps_search.evaluation.replay.methods import of_reference
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.routing_metrics.bootstrap import Rows, resampled
from haps_search.evaluation.routing_metrics.cells import Floats, assignment_means
from haps_search.evaluation.routing_metrics.pair import apgr, cpt

METRICS: Mapping[str, Callable[[Floats, Floats, Floats], float]] = {
    "CPT(50)": lambda preference, weak, strong: cpt(preference, weak, strong, 0.5),
    "CPT(80)": lambda preference, weak, strong: cpt(preference, weak, strong, 0.8),
    "APGR": apgr,
}


@dataclass(frozen=True)
class TwoModels:
    """`calls` has for every label the metrics of RouteLLM by name; `strong` earned more on the training questions.

    Intervals are over questions; of several seeds it is the mean over them. NaN where strong is not better here.
    """

    strong: str
    weak: str
    calls: Mapping[str, Mapping[str, Interval]]


def two_models(
    routers: Mapping[str, Sequence[Policy]],
    measured: Sequence[Measured],
    train: Labelled,
    test: Labelled,
    names: Sequence[str],
) -> TwoModels | None:
    """Over the questions that both models answered; None where there are more models, or no such question."""
    both = np.isfinite(test.rewards).all(axis=1)
    if len(names) != 2 or not both.any():
        return None
    strong = int(np.argmax(assignment_means(train.rewards)))
    rewards = test.rewards[both].astype(np.float64)
    preferences = {of_reference(m).label: [m.scores[both]] for m in measured}
    preferences |= {label: [policy.probabilities[both] for policy in found] for label, found in routers.items()}
    calls = {
        label: _calls([p[:, strong] - p[:, 1 - strong] for p in found], rewards[:, 1 - strong], rewards[:, strong])
        for label, found in preferences.items()
    }
    return TwoModels(names[strong], names[1 - strong], calls)


def _calls(preferences: Sequence[Floats], weak: Floats, strong: Floats) -> dict[str, Interval]:
    def of(metric: Callable[[Floats, Floats, Floats], float]) -> Interval:
        def mean(rows: Rows) -> float:
            return float(np.mean([metric(each[rows], weak[rows], strong[rows]) for each in preferences]))

        return resampled(mean, len(weak))

    return {name: of(metric) for name, metric in METRICS.items()}
