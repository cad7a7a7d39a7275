"""All that is said of a searched router on one split of an outcome table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.measure import Measured
from haps_search.evaluation.replay import cost
from haps_search.evaluation.replay.calibration import Bin, best_predictor, of_choices, of_scores
from haps_search.evaluation.replay.methods import Method, best_reference, of_reference, of_router
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.replay.standings import Row, paired, rows
from haps_search.evaluation.replay.tasks import TaskRow, task_rows
from haps_search.evaluation.replay.two_models import TwoModels, two_models
from haps_search.evaluation.replay.verdict import Verdict
from haps_search.evaluation.routing_metrics.cells import assignment_means, filled, prices
from haps_search.evaluation.routing_metrics.curve import Curve

IN_EVERY_TASK = ("best per task", "best single", "per-query oracle")
"""References that stand in the table of tasks beside the best one."""


@dataclass(frozen=True)
class Costs:
    """What is said of costs: every label's curves (one per seed) and AIQ, and where AIQ begins and ends."""

    curves: Mapping[str, Sequence[Curve]]
    qualities: Mapping[str, cost.Quality]
    within: tuple[float, float]
    singles: Mapping[str, tuple[float, float]]
    """Mean cost and mean reward of every assignment taken alone, over the questions it was measured on."""


@dataclass(frozen=True)
class Judgement:
    """The router is the first of the routers; `costs` is None where nobody knows them, `pair` where more than two
    models stand to choose."""

    split: str
    router: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    tasks: tuple[TaskRow, ...]
    calibration: Mapping[str, tuple[Bin, ...]]
    costs: Costs | None
    pair: TwoModels | None


def judge(
    routers: Mapping[str, Sequence[Policy]],
    measured: Sequence[Measured],
    train: Labelled,
    test: Labelled,
    names: Sequence[str],
    split: str,
    validation: Mapping[str, float] | None = None,
) -> Judgement:
    """The judgement of `routers` (label to one policy per seed, the one that is judged first) beside references.

    `test` has the judged questions, `train` those that the references learnt from; `names` (C,) are the assignments
    and `validation` what routers were worth where they were chosen.

    Raises:
        ValueError: no router, or no reference that a router could reach.
    """
    if not routers:
        raise ValueError("nothing to judge: needs one router at least")
    known = validation or {}
    searched = [of_router(label, found, test.rewards, known.get(label)) for label, found in routers.items()]
    references = [of_reference(each) for each in measured]
    router, best = searched[0], best_reference(references)
    verdicts = [Verdict("mean reward", best.label, paired(router, best), len(router.rewards), split)]
    costs = _costs(routers, measured, train, test, names)
    if costs is not None:
        verdicts.append(_on_aiq(costs, references, router, split))
    # A table without task names has one task, which the table of standings shows already.
    shown = [*searched[:1], best, *(m for m in references if m.label in IN_EVERY_TASK and m is not best)]
    several = len(set(test.tasks)) > 1
    return Judgement(
        split,
        router.label,
        tuple(rows([*references, *reversed(searched)], router, train, test, names)),
        tuple(verdicts),
        tuple(task_rows(shown, router, best, test.tasks)) if several else (),
        _calibration(next(iter(routers.values())), measured, test),
        costs,
        two_models(routers, measured, train, test, names),
    )


def _costs(
    routers: Mapping[str, Sequence[Policy]],
    measured: Sequence[Measured],
    train: Labelled,
    test: Labelled,
    names: Sequence[str],
) -> Costs | None:
    if train.costs is None or test.costs is None or np.isnan(train.costs).all():
        return None
    known = prices(train.costs)
    curves: dict[str, Sequence[Curve]] = {
        of_reference(each).label: [cost.reference_curve(each, known, test)] for each in measured
    }
    curves |= {label: [cost.router_curve(p, known, test) for p in found] for label, found in routers.items()}
    within = cost.cost_range(train, test)
    paid: NDArray[np.float64] = filled(test.costs, known).mean(axis=0)
    earned = assignment_means(test.rewards)
    alone = zip(names, paid.tolist(), earned.tolist(), strict=True)
    singles = {name: (price, reward) for name, price, reward in alone if np.isfinite(reward)}
    return Costs(curves, cost.qualities(curves, next(iter(routers)), within), within, singles)


def _on_aiq(costs: Costs, references: Sequence[Method], router: Method, split: str) -> Verdict:
    reachable = [method.label for method in references if method.kind == "reference"]
    best = max(reachable, key=lambda label: costs.qualities[label].aiq.mean)
    difference = costs.qualities[best].difference
    assert difference is not None
    return Verdict("AIQ", best, difference, len(router.rewards), split)


def _calibration(
    policies: Sequence[Policy], measured: Sequence[Measured], test: Labelled
) -> dict[str, tuple[Bin, ...]]:
    found = {"router: share of the best": of_choices(policies, test.rewards)}
    predictor = best_predictor(measured)
    if predictor is not None:
        label = of_reference(predictor).label
        found[f"{label}: predicted reward"] = of_scores(predictor.scores, test.rewards)
    return found
