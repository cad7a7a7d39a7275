"""From checkpoints to what is judged: one policy per seed, each the mean of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from haps_search.evaluation.routing_metrics.curve import LEAST, aiq, aiq0, router_curve
from haps_search.evaluation.routing_metrics.routes import Floats, earned, routes
from haps_search.tasks.task import KnownOutcomes


@dataclass(frozen=True)
class Policy:
    """A router's distribution over C assignments on N questions, (N, C), rows summing to 1.

    `priced` has the same under other weights of cost, for a router that is told the weight; empty for others.
    """

    probabilities: Floats
    priced: Mapping[float, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for found in (self.probabilities, *self.priced.values()):
            if found.shape != self.probabilities.shape or not np.allclose(found.sum(axis=1), 1, atol=1e-3):
                raise ValueError(f"probabilities: got {found.shape}, needs (N, C) alike, each row summing to 1")

    def greedy(self, rewards: Floats) -> Floats:
        """The likeliest measured assignment of each question, as shares (N, C)."""
        return routes(self.probabilities, rewards)

    def sampled(self, rewards: Floats) -> Floats:
        """The distribution itself over each question's measured assignments, (N, C): what sampling expects."""
        known = np.where(np.isnan(rewards), 0.0, np.maximum(self.probabilities, LEAST))
        return known / known.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Member:
    """One checkpoint: the setting it was trained under, and the fold that it was validated on and not trained on."""

    setting: str
    fold: int
    policy: Policy


def mean_policy(policies: Sequence[Policy]) -> Policy:
    """The mean of the probabilities, at every weight of cost that all of them know."""
    common = set.intersection(*(set(policy.priced) for policy in policies))
    return Policy(
        np.mean([policy.probabilities for policy in policies], axis=0),
        {weight: np.mean([policy.priced[weight] for policy in policies], axis=0) for weight in sorted(common)},
    )


def ensembles(members: Iterable[Member]) -> tuple[Policy, ...]:
    """One policy per seed: the r-th of them is the mean of the r-th checkpoint of every setting and fold.

    A router stops by validation, so it cannot be refitted on all training questions as a reference is; the mean over
    checkpoints that each left another fold out has seen all of them, and is the natural counterpart. There are as
    many policies as the setting and fold with the fewest checkpoints has, and checkpoints beyond them are left out:
    with five folds, five confirming runs make one policy, twenty-five make five. Raises ValueError without members.
    """
    groups: dict[tuple[str, int], list[Policy]] = {}
    for member in members:
        groups.setdefault((member.setting, member.fold), []).append(member.policy)
    if not groups:
        raise ValueError("an ensemble needs one checkpoint at least")
    return tuple(mean_policy(row) for row in zip(*groups.values(), strict=False))


def best_count(ranked: Sequence[Policy], utility: Callable[[Policy], float]) -> int:
    """How many of the best policies, best first, to average: 1 to all of them, whichever is worth most; the fewest of
    equals.

    `utility` is measured on validation questions: this is a choice, and the test questions have no say in it.
    """
    found = [utility(mean_policy(ranked[:count])) for count in range(1, len(ranked) + 1)]
    return int(np.argmax(np.round(found, 12))) + 1


AREAS: Mapping[str, Callable[..., float]] = {"aiq": aiq, "aiq0": aiq0}


@dataclass(frozen=True)
class Yardstick:
    """Rewards (N, C) of questions that nobody who is compared was trained on; with `costs` (N, C) and `prices` (C,)
    policies are compared by `area`, AIQ or AIQ0, without by what their likeliest assignments earn, less `weight` times
    what they cost: utility, as validation has it."""

    rewards: Floats
    costs: Floats | None = None
    prices: Floats | None = None
    area: Callable[..., float] = aiq0
    weight: float = 0.0

    @classmethod
    def of(cls, parts: Sequence[KnownOutcomes], best: str = "utility", weight: float = 0.0) -> Yardstick:
        """One after another, by `run.validation.best`, utility at `learning.cost_weight`. Where folds price a candidate
        differently, by the mean; where nobody knows costs, by reward."""
        rewards = np.concatenate([part.rewards for part in parts])
        costs, prices = ([getattr(part, name) for part in parts] for name in ("costs", "prices"))
        if any(found is None for found in (*costs, *prices)):
            return cls(rewards)
        if best not in AREAS:
            return cls(rewards, np.concatenate(costs), weight=weight)
        return cls(rewards, np.concatenate(costs), np.mean(prices, axis=0), AREAS[best])

    def __call__(self, policy: Policy) -> float:
        if self.costs is None or self.prices is None:
            return self._utility(policy)
        curve = router_curve(policy.probabilities, policy.priced, self.prices, self.rewards, self.costs)
        means = self.costs.mean(axis=0, dtype=np.float64)
        return self.area(curve.points(), (float(means.min()), float(means.max())))

    def _utility(self, policy: Policy) -> float:
        """As `validation_utility`: the mean over several weights for a router that reads them."""
        if self.costs is None:
            return float(earned(policy.greedy(self.rewards), self.rewards).mean())
        found = []
        for weight, chances in (policy.priced or {self.weight: policy.probabilities}).items():
            shares = routes(chances, self.rewards)
            found.append(earned(shares, self.rewards).mean() - weight * earned(shares, self.costs).mean())
        return float(np.mean(found))
