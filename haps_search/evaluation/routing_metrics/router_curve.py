"""The cost-quality curve of a distribution over assignments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from haps_search.evaluation.routing_metrics.cells import Floats, filled
from haps_search.evaluation.routing_metrics.curve import Curve, sweep
from haps_search.evaluation.routing_metrics.routes import earned, routes

LEAST = 1e-12
"""Probabilities below it count as it, so that their logarithm is finite."""


def router_curve(
    probabilities: Floats, priced: Mapping[float, Floats], prices: Floats, rewards: Floats, costs: Floats
) -> Curve:
    """The curve of a router with `probabilities` (N, C), and with those of `priced` where it is told a weight of cost.

    One that is told none is swept at decision time by log p(z|x) - w * price(z). Where log p is a predicted reward up
    to scale and a constant of the question (losses squared_error and soft_targets), this is predicted reward less
    weighted cost, and w running over all weights makes the scale immaterial; under other losses log p is a ranking and
    the curve a heuristic, which its figures judge. `prices` are (C,), `rewards` and `costs` (N, C).
    """
    if not priced:
        return sweep(np.log(np.maximum(probabilities, LEAST)), prices, rewards, costs)
    by_weight = {0.0: probabilities, **priced}
    weights = sorted(by_weight)
    shares = [routes(by_weight[weight], rewards) for weight in weights]
    paid = filled(costs, prices)
    return Curve(
        np.asarray(weights),
        np.stack([earned(s, rewards) for s in shares]),
        np.stack([earned(s, paid) for s in shares]),
    )
