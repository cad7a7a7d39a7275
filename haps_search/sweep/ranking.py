"""Trials by objective, those that keep the constraints first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from haps_search.config.constraints import Constraint
from haps_search.config.sweep import Objective, Study
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.repeats import searched


def best_first(study: Study, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """`ranked`, as a study asks, settings that ran on several seeds as one."""
    settings = searched(trials, study.sweep.seeds_per_trial)
    return ranked(settings, study.sweep.objectives, study.sweep.limits)


def ranked(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> list[TrialRecord]:
    """Search trials that ended with finite values of all that is asked of them, best first.

    With several objectives the Pareto front comes first, ordered by the first objective; trials that the
    scheduler stopped follow those that finished; behind all come those that break a constraint, the least first.
    """
    valued = [
        t for t in trials
        if t.kind == "search" and t.state in ("finished", "stopped")
        and all(math.isfinite(t.metrics.get(o.metric, math.nan)) for o in objectives)
        and all(math.isfinite(c.value(t.metrics)) for c in constraints)
    ]  # fmt: skip
    excess = {t.number: sum(broken(t.metrics, constraints).values()) for t in valued}
    front = {t.number for t in pareto_front([t for t in valued if not excess[t.number]], objectives)}
    several = len(objectives) > 1

    def key(t: TrialRecord) -> tuple[float, bool, bool, float, int]:
        behind = several and t.number not in front
        return excess[t.number], behind, t.state != "finished", -_gain(t, objectives[0]), t.number

    return sorted(valued, key=key)


def broken(metrics: Mapping[str, float], constraints: Sequence[Constraint]) -> dict[str, float]:
    """By how much each constraint is broken, those that are kept left out."""
    excess = {str(c): c.excess(c.value(metrics)) for c in constraints}
    return {text: value for text, value in excess.items() if value > 0}


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
