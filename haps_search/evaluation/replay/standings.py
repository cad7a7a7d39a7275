"""Routers and references in one form, so that one piece of code judges both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.intervals import Interval, paired_runs_interval, runs_interval
from haps_search.evaluation.references.best_single import BestSingle
from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.tuned import Measured
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.routing_metrics.routes import Floats, earned, filled, prices, routes
from haps_search.evaluation.routing_metrics.summary import Summary, summarise

Kind = Literal["reference", "oracle", "router"]
LABELS = {"knn": "kNN", "mlp": "MLP", "gbdt": "gradient-boosted trees", "per_query_oracle": "per-query oracle"}


@dataclass(frozen=True)
class Method:
    """One way to route N questions, with S seeds.

    `shares` (S, N, C) are what it chooses, `rewards` (S, N) what that earns; `sampled` (S, N) what its distribution
    expects, None where it has none. `validation` is what it was worth where it was chosen, None where nobody said.
    """

    label: str
    kind: Kind
    shares: NDArray[np.float64]
    rewards: NDArray[np.float64]
    sampled: NDArray[np.float64] | None = None
    validation: float | None = None
    settings: str = ""

    @property
    def mean(self) -> float:
        return float(self.rewards.mean())


def of_router(label: str, policies: Sequence[Policy], rewards: Floats, validation: float | None = None) -> Method:
    """A router with one policy per seed."""
    shares = np.stack([policy.greedy(rewards) for policy in policies]).astype(np.float64)
    sampled = np.stack([earned(policy.sampled(rewards), rewards) for policy in policies])
    found = np.stack([earned(row, rewards) for row in shares])
    return Method(label, "router", shares, found, sampled, validation)


def label_of(reference: str) -> str:
    """A reference's type as readers know it."""
    return LABELS.get(reference, reference.replace("_", " "))


def of_reference(measured: Measured) -> Method:
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in measured.settings.items())
    return Method(
        label_of(measured.type),
        "reference" if measured.reachable else "oracle",
        np.asarray(measured.routes, dtype=np.float64)[None],
        measured.rewards[None],
        validation=measured.validation,
        settings=settings,
    )


def best_reference(methods: Sequence[Method]) -> Method:
    """The reachable reference that earns most on the very questions that are judged: the hardest one to beat.

    Raises ValueError where there is none.
    """
    reachable = [method for method in methods if method.kind == "reference"]
    if not reachable:
        raise ValueError("no reference was measured that a router could reach: compare one at least")
    return max(reachable, key=lambda method: method.mean)


def mean_cost(method: Method, train: Labelled, test: Labelled) -> float | None:
    """The mean cost of a question, a missing one at its price in training; None where nobody knows costs."""
    if train.costs is None or test.costs is None:
        return None
    paid = filled(test.costs, prices(train.costs))
    return float(np.mean([earned(shares, paid).mean() for shares in method.shares]))


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
    """mean(one - other) over the same questions and seeds.

    What has a single seed is set against every seed of the other; of two with several, the seeds are different
    things, and each of the first is set against the mean of the other.
    """
    single = 1 in (len(one.rewards), len(other.rewards))
    return paired_runs_interval(one.rewards, other.rewards if single else other.rewards.mean(axis=0)[None], seed)


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
    return Row(
        method.label,
        method.kind,
        runs_interval(method.rewards),
        None if method.sampled is None else float(method.sampled.mean()),
        summarise(mean, single, oracle, test.tasks),
        mean_cost(method, train, test),
        dict(zip(names, method.shares.mean(axis=(0, 1)).tolist(), strict=True)),
        None if method is router else paired(router, method),
        tuple(method.rewards.mean(axis=1).tolist()),
        method.validation,
        method.settings,
    )
