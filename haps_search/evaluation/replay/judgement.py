"""All that is said of a searched router on one split of an outcome table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.tuned import Measured
from haps_search.evaluation.replay import cost_quality
from haps_search.evaluation.replay.cost_quality import TwoModels, two_models
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.replay.standings import Method, Row, best_reference, of_reference, of_router, paired, rows
from haps_search.evaluation.routing_metrics.curve import Curve
from haps_search.evaluation.routing_metrics.routes import Floats, assignment_means, earned, filled, prices

IN_EVERY_TASK = ("best per task", "best single", "per-query oracle")
"""References that stand in the table of tasks beside the best one."""


@dataclass(frozen=True)
class Costs:
    """What is said of costs: every label's curves (one per seed) and AIQ0, and where it begins and ends."""

    curves: Mapping[str, Sequence[Curve]]
    qualities: Mapping[str, cost_quality.Quality]
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
        verdicts.append(_on_aiq0(costs, references, router, split))
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
        of_reference(each).label: [cost_quality.reference_curve(each, known, test)] for each in measured
    }
    curves |= {label: [cost_quality.router_curve(p, known, test) for p in found] for label, found in routers.items()}
    within = cost_quality.cost_range(train, test)
    paid: NDArray[np.float64] = filled(test.costs, known).mean(axis=0)
    earned = assignment_means(test.rewards)
    alone = zip(names, paid.tolist(), earned.tolist(), strict=True)
    singles = {name: (price, reward) for name, price, reward in alone if np.isfinite(reward)}
    return Costs(curves, cost_quality.qualities(curves, next(iter(routers)), within), within, singles)


def _on_aiq0(costs: Costs, references: Sequence[Method], router: Method, split: str) -> Verdict:
    reachable = [method.label for method in references if method.kind == "reference"]
    best = max(reachable, key=lambda label: costs.qualities[label].aiq0.mean)
    difference = costs.qualities[best].difference
    assert difference is not None
    return Verdict("AIQ0", best, difference, len(router.rewards), split)


def _calibration(
    policies: Sequence[Policy], measured: Sequence[Measured], test: Labelled
) -> dict[str, tuple[Bin, ...]]:
    found = {"router: share of the best": of_choices(policies, test.rewards)}
    predictor = best_predictor(measured)
    if predictor is not None:
        label = of_reference(predictor).label
        found[f"{label}: predicted reward"] = of_scores(predictor.scores, test.rewards)
    return found


@dataclass(frozen=True)
class TaskRow:
    """One task: mean reward of each method over its `questions`, and the router minus the best reference."""

    task: str
    questions: int
    rewards: Mapping[str, float]
    difference: Interval


def task_rows(shown: Sequence[Method], router: Method, best: Method, tasks: Sequence[str]) -> list[TaskRow]:
    """A row per task, largest first; `shown` are the methods whose means stand there.

    A task has few questions and there are many tasks: one interval in twenty misses its value by chance.
    """
    names = np.asarray(tasks, dtype=object)
    found = []
    for task in sorted(set(tasks)):
        own = names == task
        part = {method.label: float(method.rewards[:, own].mean()) for method in shown}
        found.append(TaskRow(task, int(own.sum()), part, paired(_only(router, own), _only(best, own))))
    return sorted(found, key=lambda row: (-row.questions, row.task))


def _only(method: Method, own: np.ndarray) -> Method:
    return Method(method.label, method.kind, method.shares[:, own], method.rewards[:, own])


BINS = 10
PREDICTS_REWARDS = ("knn", "ridge", "mlp", "matrix_factorisation", "gbdt")
"""References whose scores are rewards that they expect of this question; of the others they are rankings or means."""


@dataclass(frozen=True, slots=True)
class Bin:
    """`count` predictions alike: their mean, and the mean of what came of them."""

    predicted: float
    realised: float
    count: int


def reliability(predicted: Floats, realised: Floats, bins: int = BINS) -> tuple[Bin, ...]:
    """At most `bins` bins of about as many of the M predictions each, ascending; equal predictions share one.

    The points of a reliability diagram (Niculescu-Mizil and Caruana, 2005, with bins of equal counts instead of
    equal widths). Raises ValueError without predictions, or where shapes differ.
    """
    if not predicted.size or predicted.shape != realised.shape:
        raise ValueError(f"predicted: got {predicted.shape} for {realised.shape}, needs one for each, one at least")
    _, value, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    middles = (np.cumsum(counts) - counts / 2) / len(predicted)
    which = (bins * middles).astype(int)[value]
    groups = [which == index for index in np.unique(which)]
    return tuple(Bin(float(predicted[g].mean()), float(realised[g].mean()), int(g.sum())) for g in groups)


def of_choices(policies: Sequence[Policy], rewards: Floats) -> tuple[Bin, ...]:
    """The probability of the likeliest measured assignment, against its share of the question's best: 1 / n where it
    is one of n with the highest reward, else 0.

    That is what the probability means to a router that learns who is best, where equal ones share. All S policies
    count. Ties of the likeliest share the question, as they do when it is routed.
    """
    best = (rewards == np.nanmax(rewards, axis=1, keepdims=True)).astype(np.float64)
    best /= best.sum(axis=1, keepdims=True)
    said = [policy.sampled(rewards).max(axis=1) for policy in policies]
    came = [earned(policy.greedy(rewards), best) for policy in policies]
    return reliability(np.concatenate(said), np.concatenate(came))


def of_scores(scores: Floats, rewards: Floats) -> tuple[Bin, ...]:
    """The predicted score of every measured cell, against the cell."""
    known = ~np.isnan(rewards)
    return reliability(scores[known], rewards[known])


def best_predictor(measured: Sequence[Measured]) -> Measured | None:
    """The reference that predicts rewards and did best where it was tuned; None where none was compared."""
    able = [each for each in measured if each.type in PREDICTS_REWARDS]
    return max(able, key=lambda each: each.validation, default=None)


Outcome = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True)
class Verdict:
    """The router against the best reference in one measure: `difference` is the router minus the reference."""

    measure: str
    reference: str
    difference: Interval
    seeds: int
    split: str

    @property
    def outcome(self) -> Outcome:
        """By where the 95 % interval lies; one that touches 0 tells nothing apart."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "not told apart"

    @property
    def sentence(self) -> str:
        d = self.difference
        shown = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        said = {
            "better": f"beats the best reference, {self.reference}, by {shown}",
            "worse": f"does not beat the best reference, {self.reference}: it is worse, by {shown}",
            "not told apart": f"does not beat the best reference, {self.reference}: {shown}",
        }[self.outcome]
        over = f"{d.count:,} {self.split} questions, {self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return f"In {self.measure} the router {said} ({over}; 95 % interval)."
