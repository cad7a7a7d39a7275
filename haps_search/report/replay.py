"""What a replay leaves in its folder beside the references: a cost curve, scores per task, calibration.

curve.json        {"points": [{"label", "cost", "reward"}], "hull": [{"cost", "reward"}]}
tasks.json        {"rows": [{"task", ...}]}, other fields numbers or texts
calibration.json  {"bins": [{"predicted", "realised", "count"}]}
"""

from __future__ import annotations

from dataclasses import dataclass

from haps_search.report.draw.points import Dot, draw_points
from haps_search.report.shape import Figure, Key, Section, Table
from haps_search.report.source import Source
from haps_search.report.stored import Fields

MOST_NAMES = 6
"""Corners of the hull that are named in the figure; of more, the first and the last are. The table has all."""


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Mean reward by mean cost of every way to route, and the hull over them, by cost."""

    points: tuple[tuple[str, float, float], ...]
    hull: tuple[tuple[float, float], ...]


def cost_curve(fields: Fields) -> CostCurve:
    points = [(p.text("label"), p.number("cost"), p.number("reward")) for p in fields.objects("points")]
    hull = [(p.number("cost"), p.number("reward")) for p in fields.objects("hull")]
    return CostCurve(tuple(points), tuple(sorted(hull)))


def replay_sections(source: Source) -> list[Section]:
    """One per file that is there, none for runs that are no replay."""
    makers = {"curve.json": _curve, "tasks.json": _tasks, "calibration.json": _calibration}
    return [make(source.stored[name]) for name, make in makers.items() if name in source.stored]


def curve_table(found: CostCurve) -> Table:
    """Every point with whether it is on the hull, by cost; corners of the hull that no point is stand there too."""
    there = {(cost, reward) for _, cost, reward in found.points}
    corners = [("hull", cost, reward) for cost, reward in found.hull if (cost, reward) not in there]
    rows = sorted([*found.points, *corners], key=lambda row: (row[1], row[2], row[0]))
    cells = tuple((label, cost, reward, int((cost, reward) in found.hull)) for label, cost, reward in rows)
    return Table("curve", "Reward by cost", ("label", "cost", "reward", "on hull"), cells)


def _curve(fields: Fields) -> Section:
    found = cost_curve(fields)
    data = curve_table(found)
    said = f"{len(found.points)} ways to route by mean cost and mean reward; the hull has {len(found.hull)} corners."
    named = found.hull if len(found.hull) <= MOST_NAMES else (found.hull[0], found.hull[-1])
    dots = [
        Dot(c, r, "best" if (c, r) in found.hull else "series0", label=label if (c, r) in named else "")
        for label, c, r in found.points
    ]
    keys = (Key("hull", "best"), Key("other ways to route", "series0", "dot"))
    svg = draw_points("curve", data.title, said, dots, "cost per question", "reward", line=found.hull)
    return Section("curve", "Cost and quality", (), (data,), (Figure(data, said, svg, keys),))


def _tasks(fields: Fields) -> Section:
    rows = fields.objects("rows")
    columns = tuple(dict.fromkeys(["task", *(name for row in rows for name in row.content)]))
    cells = tuple((row.text("task"), *(row.cell(name) for name in columns[1:])) for row in rows)
    return Section("tasks", "Per task", tables=(Table("tasks", "Per task", columns, cells),))


def _calibration(fields: Fields) -> Section:
    title = "Predicted and realised score"
    bins = [(b.number("predicted"), b.number("realised"), int(b.number("count"))) for b in fields.objects("bins")]
    total = sum(count for *_, count in bins)
    error = sum(abs(p - r) * count for p, r, count in bins) / total if total else 0.0
    said = f"{len(bins)} bins of {total} predictions; predicted and realised differ by {error:.3f} on average."
    data = Table("calibration", title, ("predicted", "realised", "count"), tuple(bins))
    ends = [v for p, r, _ in bins for v in (p, r)] or [0.0]
    line = [(min(ends), min(ends)), (max(ends), max(ends))]
    keys = (Key("bin", "series0", "dot"), Key("as predicted", "best"))
    dots = [Dot(p, r, "series0") for p, r, _ in bins]
    svg = draw_points("calibration", title, said, dots, "predicted", "realised", line=line)
    return Section("calibration", "Calibration", figures=(Figure(data, said, svg, keys),))
