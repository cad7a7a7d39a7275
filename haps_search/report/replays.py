"""What a replay leaves in its folder beside the references: a cost curve, scores per task, calibration.

references.json   {"shares": [{"row", ...}]}, shares of assignments; its other fields are `report.comparisons`'
curve.json        {"points": [{"label", "cost", "reward"}], "hull": [{"cost", "reward"}]}, and optionally
                  "lines": [{"label", "best", "points": [{"cost", "reward"}]}], other hulls, the best one's `best` 1
tasks.json        {"rows": [{"task", ...}]}, other fields numbers or texts
calibration.json  {"bins": [{"predicted", "realised", "count"}]}, optionally each with the "label" of what predicts
"""

from __future__ import annotations

from dataclasses import dataclass

from haps_search.report.charts import Dot, draw_points
from haps_search.report.shape import Figure, Key, Section, Table
from haps_search.report.source import Fields, Source

MOST_NAMES = 6
"""Corners of the hull that are named in the figure; of more, the first and the last are. The table has all."""


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Mean reward by mean cost of every way to route, and the hull over them, by cost."""

    points: tuple[tuple[str, float, float], ...]
    hull: tuple[tuple[float, float], ...]
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...] = ()
    best: str = ""
    """The label of the line that is drawn beside the hull."""


def cost_curve(fields: Fields) -> CostCurve:
    points = [(p.text("label"), p.number("cost"), p.number("reward")) for p in fields.objects("points")]
    lines = fields.objects("lines") if fields.has("lines") else []
    best = next((line.text("label") for line in lines if line.maybe("best")), "")
    return CostCurve(
        tuple(points), _line(fields, "hull"), tuple((x.text("label"), _line(x, "points")) for x in lines), best
    )


def _line(fields: Fields, name: str) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((p.number("cost"), p.number("reward")) for p in fields.objects(name)))


def replay_sections(source: Source) -> list[Section]:
    """One per file that is there, none for runs that are no replay."""
    makers = {
        "curve.json": _curve,
        "tasks.json": _tasks,
        "references.json": _shares,
        "calibration.json": _calibration,
    }
    found = [make(source.stored[name]) for name, make in makers.items() if name in source.stored]
    return [section for section in found if section is not None]


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
    # Of points in one place one is named: names on top of each other cannot be read.
    names = {(c, r): label for label, c, r in reversed(found.points) if (c, r) in named}
    dots = [
        Dot(c, r, "best" if (c, r) in found.hull else "series0", label=label if names.get((c, r)) == label else "")
        for label, c, r in found.points
    ]
    keys = [Key("hull", "best"), Key("other ways to route", "series0", "dot")]
    beside = next((line for label, line in found.lines if label == found.best), ())
    if beside:
        keys.insert(1, Key(f"hull of {found.best}, the best reference", "series1", "dashed"))
    svg = draw_points("curve", data.title, said, dots, "cost per question", "reward", line=found.hull, beside=beside)
    tables = (data, _hulls(found)) if found.lines else (data,)
    return Section("curve", "Cost and quality", (), tables, (Figure(data, said, svg, tuple(keys)),))


def _hulls(found: CostCurve) -> Table:
    """The corners of every hull, so that any other can be drawn."""
    lines = [("hull", found.hull), *found.lines]
    rows = tuple((label, cost, reward) for label, line in lines for cost, reward in line)
    return Table("hulls", "Hulls", ("label", "cost", "reward"), rows)


def _shares(fields: Fields) -> Section | None:
    if not fields.has("shares"):
        return None
    title = "Route shares of every way to route"
    return Section("choices", title, tables=(_named(fields.objects("shares"), "row", "routes", title),))


def _tasks(fields: Fields) -> Section:
    return Section("tasks", "Per task", tables=(_named(fields.objects("rows"), "task", "tasks", "Per task"),))


def _named(rows: list[Fields], first: str, name: str, title: str) -> Table:
    """Rows that begin with a text and go on with whatever else they hold."""
    columns = tuple(dict.fromkeys([first, *(column for row in rows for column in row.content)]))
    cells = tuple((row.text(first), *(row.cell(column) for column in columns[1:])) for row in rows)
    return Table(name, title, columns, cells)


def _calibration(fields: Fields) -> Section:
    title = "Predicted and realised"
    bins = [_bin(b) for b in fields.objects("bins")]
    labels = tuple(dict.fromkeys(label for label, *_ in bins))
    said = " ".join(_said(label, [b[1:] for b in bins if b[0] == label]) for label in labels) or "No predictions."
    ends = [v for _, p, r, _ in bins for v in (p, r)] or [0.0]
    line = [(min(ends), min(ends)), (max(ends), max(ends))]
    colours = {label: f"series{index % 8}" for index, label in enumerate(labels)}
    keys = (*(Key(label or "bin", colours[label], "dot") for label in labels), Key("as predicted", "best"))
    dots = [Dot(p, r, colours[label]) for label, p, r, _ in bins]
    svg = draw_points("calibration", title, said, dots, "predicted", "realised", line=line)
    data = Table("calibration", title, ("label", "predicted", "realised", "count"), tuple(bins))
    return Section("calibration", "Calibration", figures=(Figure(data, said, svg, keys),))


def _bin(fields: Fields) -> tuple[str, float, float, int]:
    label = fields.text("label") if fields.has("label") else ""
    return label, fields.number("predicted"), fields.number("realised"), int(fields.number("count"))


def _said(label: str, bins: list[tuple[float, float, int]]) -> str:
    total = sum(count for *_, count in bins)
    error = sum(abs(p - r) * count for p, r, count in bins) / total if total else 0.0
    name = f"{label}: " if label else ""
    return f"{name}{len(bins)} bins of {total} predictions; predicted and realised differ by {error:.3f} on average."
