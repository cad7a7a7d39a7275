"""Bounds on what a run measures, as a user writes them: `validation_cost <= 0.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from haps_search.config.schema import suggest

RECORDED = (
    *("validation_reward", "validation_utility", "validation_aiq", "validation_aiq0"),
    *("validation_tokens", "validation_cost"),
    *("validation_expected_reward", "validation_adapter_norm", "validation_contexts_cut"),
    *("reward", "reward_spread", "expected_reward", "route_entropy", "answer_share", "adapter_norm", "kl"),
    *("log_likelihood", "parse_failures", "contexts_cut", "prompt_tokens", "completion_tokens", "prompts_known"),
    *("route_collapse", "answer_collapse", "gradient_norm", "learning_rate_factor", "missing_cells", "staleness"),
    *("cost", "step_seconds", "rollout_seconds", "tokens_per_second", "routing_prompts_cut"),
)
"""What a validated step records."""
FAMILIES = ("share/", "validation_share/", "parse_failure_share/", "validation_parse_failure_share/")
"""Before a candidate's or a seat's name."""
SEATS = ("parse_failure_share/", "validation_parse_failure_share/")
"""Of them those before `ROLE/CANDIDATE`, which a run records of seats that had a turn only."""
_FORM = re.compile(r"^\s*(?P<metric>[\w./:-]+)\s*(?P<sense><=|>=)\s*(?P<bound>[-+.\w]+)\s*$")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on one metric of a run's end."""

    metric: str
    sense: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.sense} {self.bound:g}"

    def value(self, metrics: Mapping[str, float]) -> float:
        """What a run has of the metric, NaN for nothing; a seat that had no turn failed at none."""
        return metrics.get(self.metric, 0.0 if self.metric.startswith(SEATS) else math.nan)

    def excess(self, value: float) -> float:
        """By how much a value breaks the bound; 0 and below keep it."""
        return value - self.bound if self.sense == "<=" else self.bound - value


def parse_constraint(text: str) -> Constraint:
    """A constraint from `METRIC <= NUMBER` or `METRIC >= NUMBER`.

    Raises:
        ValueError: another form, a metric that no run records (with the nearest one that is), no finite number.
    """
    match = _FORM.match(text)
    if match is None:
        raise ValueError(f"got {text!r}, needs METRIC <= NUMBER or METRIC >= NUMBER, as in validation_cost <= 0.5")
    metric = match["metric"]
    if metric not in RECORDED and not metric.startswith(FAMILIES):
        raise ValueError(f"no run records a metric {metric}; {suggest(metric, [*RECORDED, *FAMILIES])}")
    try:
        bound = float(match["bound"])
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ValueError(f"got the bound {match['bound']} in {text!r}, needs a finite number")
    return Constraint(metric, "<=" if match["sense"] == "<=" else ">=", bound)
