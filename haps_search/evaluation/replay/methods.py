"""Routers and references in one form, so that one piece of code judges both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.references.labelled import Labelled
from haps_search.evaluation.references.measure import Measured
from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.routing_metrics.cells import Floats, filled, prices
from haps_search.evaluation.routing_metrics.routes import earned

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
