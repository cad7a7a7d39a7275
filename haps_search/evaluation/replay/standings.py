"""The table of a judgement: every way to route with what it earns, and what the router earns more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.arms import two_way_interval
from haps_search.evaluation.intervals import Interval, mean_interval
from haps_search.evaluation.references.best_single import BestSingle
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.replay.methods import Method, mean_cost
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.evaluation.routing_metrics.routes import earned, routes
from haps_search.evaluation.routing_metrics.summary import Summary, summarise


@dataclass(frozen=True)
class Row:
    """One way to route N questions under S seeds.

    `reward` is the micro mean of the likeliest choice, `sampled` of the distribution (None where it has none).
    `summary` holds what else can be said without costs, of the mean over seeds. `cost` is per question. `difference`
    is the router minus this row, None in the router's own. `seeds` are the means per seed.
    """

    label: str
    kind: str
    reward: Interval
    sampled: float | None
    summary: Summary
    cost: float | None
    shares: Mapping[str, float]
    difference: Interval | None
    seeds: tuple[float, ...]
    validation: float | None
    settings: str


def rows(methods: Sequence[Method], router: Method, train: Labelled, test: Labelled, names: Sequence[str]) -> list[Row]:
    """A row per method, `names` (C,) being the assignments.

    The gap is closed from the best single assignment of `train` to the best measured one of each question.
    """
    single, oracle = best_single(train, test), np.nanmax(test.rewards, axis=1).astype(np.float64)
    return [_row(method, router, single, oracle, train, test, names) for method in methods]


def best_single(train: Labelled, test: Labelled) -> NDArray[np.float64]:
    """What the best single assignment of `train` earns on each question of `test`, (N,)."""
    reference = BestSingle()
    reference.fit(train, 0)
    return earned(routes(reference.scores(test.unlabelled()), test.rewards), test.rewards)


def paired(one: Method, other: Method, seed: int = 0) -> Interval:
    """mean(one - other) over the same questions and seeds, both resampled (`arms.two_way_interval`).

    What has a single seed is set against every seed of the other; of two with several, the seeds are different
    things, and each of the first is set against the mean of the other.
    """
    against: Floats = other.rewards if 1 in (len(one.rewards), len(other.rewards)) else other.rewards.mean(axis=0)
    return two_way_interval(np.asarray(one.rewards - against, dtype=np.float64), seed)


def _row(
    method: Method,
    router: Method,
    single: NDArray[np.float64],
    oracle: NDArray[np.float64],
    train: Labelled,
    test: Labelled,
    names: Sequence[str],
) -> Row:
    mean = method.rewards.mean(axis=0)
    several = len(method.rewards) > 1
    return Row(
        method.label,
        method.kind,
        two_way_interval(method.rewards) if several else mean_interval(mean.tolist()),
        None if method.sampled is None else float(method.sampled.mean()),
        summarise(mean, single, oracle, test.tasks),
        mean_cost(method, train, test),
        dict(zip(names, method.shares.mean(axis=(0, 1)).tolist(), strict=True)),
        None if method is router else paired(router, method),
        tuple(method.rewards.mean(axis=1).tolist()),
        method.validation,
        method.settings,
    )
