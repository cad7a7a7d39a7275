"""What policies are compared by where one is to be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haps_search.evaluation.replay.policies import Policy
from haps_search.evaluation.routing_metrics.aiq import aiq
from haps_search.evaluation.routing_metrics.cells import Floats
from haps_search.evaluation.routing_metrics.router_curve import router_curve
from haps_search.evaluation.routing_metrics.routes import earned
from haps_search.tasks.task import KnownOutcomes


@dataclass(frozen=True)
class Yardstick:
    """Rewards (N, C) of questions that nobody who is compared was trained on; with `costs` (N, C) and `prices` (C,)
    policies are compared by AIQ, without by what their likeliest assignments earn."""

    rewards: Floats
    costs: Floats | None = None
    prices: Floats | None = None

    @classmethod
    def of(cls, parts: Sequence[KnownOutcomes], by_aiq: bool) -> Yardstick:
        """One after another. Where folds price a candidate differently, by the mean."""
        rewards = np.concatenate([part.rewards for part in parts])
        costs, prices = ([getattr(part, name) for part in parts] for name in ("costs", "prices"))
        if not by_aiq or any(found is None for found in (*costs, *prices)):
            return cls(rewards)
        return cls(rewards, np.concatenate(costs), np.mean(prices, axis=0))

    def __call__(self, policy: Policy) -> float:
        if self.costs is None or self.prices is None:
            return float(earned(policy.greedy(self.rewards), self.rewards).mean())
        curve = router_curve(policy.probabilities, policy.priced, self.prices, self.rewards, self.costs)
        means = self.costs.mean(axis=0, dtype=np.float64)
        return aiq(curve.points(), (float(means.min()), float(means.max())))
