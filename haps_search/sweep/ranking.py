"""Trials by objective."""

from __future__ import annotations

import math
from collections.abc import Sequence

from haps_search.config.sweep import Objective
from haps_search.sweep.events import TrialRecord


def ranked(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Search trials that ended with finite values, best first.

    With several objectives the Pareto front comes first, ordered by the first objective; trials that the
    scheduler stopped follow those that finished.
    """
    valued = [
        t for t in trials
        if t.kind == "search" and t.state in ("finished", "stopped")
        and all(math.isfinite(t.metrics.get(o.metric, math.nan)) for o in objectives)
    ]  # fmt: skip
    front = {t.number for t in pareto_front(valued, objectives)}
    several = len(objectives) > 1

    def key(t: TrialRecord) -> tuple[bool, bool, float, int]:
        return several and t.number not in front, t.state != "finished", -_gain(t, objectives[0]), t.number

    return sorted(valued, key=key)


def pareto_front(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Trials that no other beats in one objective without losing in another."""
    points = [(t, [_gain(t, o) for o in objectives]) for t in trials]
    return [t for t, own in points if not any(_dominates(other, own) for _, other in points)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _gain(trial: TrialRecord, objective: Objective) -> float:
    value = trial.metrics[objective.metric]
    return value if objective.mode == "max" else -value
