"""A judgement as the JSON files that `haps report` reads (see report.replays and report.comparisons)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.replay.judgement import Costs, Judgement
from haps_search.evaluation.replay.standings import Row
from haps_search.evaluation.routing_metrics.curve import non_decreasing_hull


def contents(judgement: Judgement) -> dict[str, dict[str, Any]]:
    """File name to content; without costs there is no curve.json, without several tasks no tasks.json."""
    found = {
        "references.json": references(judgement),
        "calibration.json": {
            "bins": [{"label": label} | asdict(b) for label, bins in judgement.calibration.items() for b in bins]
        },
    }
    if judgement.tasks:
        found["tasks.json"] = {"rows": [_task(judgement, number) for number in range(len(judgement.tasks))]}
    if judgement.costs is not None:
        found["curve.json"] = curve(judgement, judgement.costs)
    return found


def references(judgement: Judgement) -> dict[str, Any]:
    """Every row with its interval, its difference to the router, and the verdict in sentences."""
    qualities = judgement.costs.qualities if judgement.costs else {}
    rows = []
    for row in judgement.rows:
        found = _row(row)
        if judgement.pair is not None:
            found |= {name: _spread(value) for name, value in judgement.pair.calls[row.label].items()}
        if row.label in qualities:
            quality = qualities[row.label]
            found |= {"AIQ0": _spread(quality.aiq0), "AIQ": _spread(quality.aiq)}
            if quality.difference is not None:
                found[f"{judgement.router} minus this, AIQ0"] = _spread(quality.difference)
        rows.append(found)
    return {
        "split": judgement.split,
        "router": judgement.router,
        "verdict": [verdict.sentence for verdict in judgement.verdicts],
        "outcomes": [{"measure": v.measure, "reference": v.reference, "outcome": v.outcome} | _spread(v.difference)
                     for v in judgement.verdicts],
        "rows": rows,
        "shares": [{"row": row.label, **row.shares} for row in judgement.rows],
    }  # fmt: skip


def curve(judgement: Judgement, costs: Costs) -> dict[str, Any]:
    """`points`: every single assignment, and every row where cost has no weight. `hull`: the router's non-decreasing
    hull (of its first seed). `lines`: the same of the references, by label."""
    points = [{"label": f"always {name}", "cost": c, "reward": r} for name, (c, r) in costs.singles.items()]
    points += [
        {"label": r.label, "cost": r.cost, "reward": r.reward.mean} for r in judgement.rows if r.cost is not None
    ]
    hulls = {label: non_decreasing_hull(curves[0].points()) for label, curves in costs.curves.items()}
    lines = {label: [{"cost": c, "reward": r} for c, r in hull.tolist()] for label, hull in hulls.items()}
    best = next((v.reference for v in judgement.verdicts if v.measure == "AIQ0"), "")
    return {
        "points": points,
        "hull": lines[judgement.router],
        "lines": [{"label": label, "points": line, "best": int(label == best)}
                  for label, line in lines.items() if label != judgement.router],
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    summary = row.summary
    found: dict[str, Any] = {"label": row.label, "kind": row.kind, **_spread(row.reward), "count": row.reward.count}
    if row.difference is not None:
        found["difference"] = _spread(row.difference)
    return found | {
        "sampled": row.sampled,
        "macro": _spread(summary.macro),
        "gap closed": _spread(summary.gap_closed),
        "Gain@B": _spread(summary.gain_at_best),
        "Gap@O": _spread(summary.gap_at_oracle),
        "regret": _spread(summary.regret),
        "cost": row.cost,
        "validation": row.validation,
        "seeds": len(row.seeds),
        "per seed": " ".join(f"{seed:.4f}" for seed in row.seeds) if len(row.seeds) > 1 else None,
        "settings": row.settings or None,
    }


def _task(judgement: Judgement, number: int) -> dict[str, Any]:
    row = judgement.tasks[number]
    d = row.difference
    return {
        "task": row.task, "questions": row.questions, **row.rewards,
        f"{judgement.router} minus {judgement.verdicts[0].reference}": d.mean, "low": d.low, "high": d.high,
    }  # fmt: skip


def _spread(interval: Interval) -> dict[str, float | None]:
    return _finite({"mean": interval.mean, "low": interval.low, "high": interval.high})


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
