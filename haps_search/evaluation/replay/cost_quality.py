"""Quality against cost: the curve of every way to route, its AIQ0, and the router's AIQ0 less the others'.

A router that was trained with the weight of cost as an input has a distribution for each weight, and its curve is
what it chooses under them. Any other router is swept at decision time (`routing_metrics.curve`), and no
training is repeated. References that predict scores are swept by score - w * price. Prices are mean costs of training
questions: costs are paid after the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation import intervals
from haps_search.evaluation.intervals import Interval, Rows, percentiles, resampled
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.tuned import Measured
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.replay.standings import of_reference
from haps_search.evaluation.routing_metrics import curve as routing_metrics
from haps_search.evaluation.routing_metrics.curve import Curve, aiq, aiq0, sweep
from haps_search.evaluation.routing_metrics.routes import Floats, assignment_means, filled, prices
from haps_search.evaluation.routing_metrics.summary import apgr, cpt

CHUNK = 250
"""Draws at a time: their counts are (CHUNK, N)."""


@dataclass(frozen=True)
class Quality:
    """One way to route, over questions and seeds: RouterBench's AIQ, AIQ0 (AIQ with (0, 0) in the hull), and the
    router's AIQ0 less this one's, None in its own."""

    aiq: Interval
    aiq0: Interval
    difference: Interval | None


def router_curve(policy: Policy, known: Floats, test: Labelled) -> Curve:
    """The curve of one policy; `known` (C,) are the prices. Raises ValueError where the questions have no costs."""
    return routing_metrics.router_curve(policy.probabilities, policy.priced, known, test.rewards, _costs(test))


def reference_curve(measured: Measured, known: Floats, test: Labelled) -> Curve:
    """The curve of a reference; the oracle, which reads rewards, reads costs too."""
    costs = _costs(test)
    return sweep(measured.scores, known if measured.reachable else filled(costs, known), test.rewards, costs)


def cost_range(train: Labelled, test: Labelled) -> tuple[float, float]:
    """Mean costs of the cheapest and the dearest assignment on the judged questions, at which AIQ begins and ends."""
    known = prices(_costs(train))
    means = filled(_costs(test), known).mean(axis=0)
    return float(means.min()), float(means.max())


def qualities(
    curves: Mapping[str, Sequence[Curve]], router: str, within: tuple[float, float], seed: int = 0
) -> dict[str, Quality]:
    """AIQ and AIQ0 of every label, each with one curve per seed (S of them) over the same questions.

    The interval is a bootstrap over questions and seeds, 2,000 draws, percentiles. A draw takes the same questions
    for all labels, so differences are paired; seeds are drawn for each label, as they are different things. The AIQ
    of a label is the mean over its seeds.
    """
    drawn = {label: _draws(found, within, seed, number) for number, (label, found) in enumerate(curves.items())}
    count = next(iter(curves.values()))[0].rewards.shape[1]
    found = {}
    for label, (ours, ours0) in drawn.items():
        difference = None if label == router else _interval(drawn[router][1] - ours0, count)
        found[label] = Quality(_interval(ours, count), _interval(ours0, count), difference)
    return found


def _draws(curves: Sequence[Curve], within: tuple[float, float], seed: int, number: int) -> NDArray[np.float64]:
    """AIQ and AIQ0, (2, 1 + 2,000): of all questions and seeds, then of each draw."""
    questions, seeds = np.random.default_rng(seed), np.random.default_rng([seed, number + 1])
    count, draws = curves[0].rewards.shape[1], intervals.DRAWS
    found = [_areas(curves, np.full((1, count), 1 / count), within).mean(axis=1)]
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        weights = questions.multinomial(count, np.full(count, 1 / count), size) / count
        each = _areas(curves, weights, within)
        drawn = seeds.multinomial(len(curves), np.full(len(curves), 1 / len(curves)), size) / len(curves)
        found.append((drawn.T * each).sum(axis=1))
    return np.concatenate(found, axis=1)


def _areas(curves: Sequence[Curve], weights: NDArray[np.float64], within: tuple[float, float]) -> NDArray[np.float64]:
    """AIQ and AIQ0 of each curve under each weighting of the questions, (2, S, D); `weights` (D, N) sum to 1."""
    found = np.empty((2, len(curves), len(weights)))
    for index, curve in enumerate(curves):
        points = np.stack([weights @ curve.costs.T, weights @ curve.rewards.T], axis=2)
        for measure, area in enumerate((aiq, aiq0)):
            found[measure, index] = [area(row, within) for row in points]
    return found


def _interval(values: NDArray[np.float64], count: int) -> Interval:
    return Interval(float(values[0]), *percentiles(values[1:]), count)


def _costs(questions: Labelled) -> Floats:
    if questions.costs is None:
        raise ValueError("costs: nobody knows them, so there is no curve")
    return questions.costs


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
