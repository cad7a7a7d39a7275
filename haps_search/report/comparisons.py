"""Tables that measuring left: the comparison of a sweep, the arms on a split, the references of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from haps_search.report.charts import Dot, draw_intervals, draw_points
from haps_search.report.shape import Cell, Figure, Key, Section, Table
from haps_search.report.source import Fields, Source
from haps_search.sweep.ranking import broken, pareto_front

SPREAD = ("mean", "low", "high")
FORWARD, BACKWARD = "forward FLOPs per step", "backward FLOPs per step"


@dataclass(frozen=True, slots=True)
class Gap:
    """A paired difference with its 95 % interval; the ends are None where there are none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """One row: a mean with its 95 % interval, what else is known of it, and its paired difference to another row."""

    label: str
    mean: float
    low: float | None
    high: float | None
    count: int | None
    gap: Gap | None
    extra: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Standings:
    """One file's rows. `gap` says in words what every row's difference is, `chief` is the row that matters most."""

    file: str
    title: str
    gap: str
    chief: str
    rows: tuple[Standing, ...]


def comparison(source: Source) -> Standings | None:
    """The sweep's own comparison, of `report.json`: gaps are the best trial, the last row, minus the row."""
    stored = source.stored.get("report.json")
    if stored is None or not stored.content.get("comparison"):
        return None
    return _table(stored, "comparison", "comparison", "Greedy reward on validation")


def on_test(source: Source) -> Standings | None:
    """The same rows on the test split, of `table-test.json`."""
    stored = source.stored.get("table-test.json")
    return None if stored is None else _table(stored, "rows", "table-test", "Greedy reward on test")


def _table(stored: Fields, rows: str, file: str, title: str) -> Standings:
    found = [_row(each, each.object("reward"), "joint_gain", _cost(each)) for each in stored.objects(rows)]
    chief = found[-1].label
    return Standings(file, title, f"{chief.removesuffix(' (best trial)')} minus this", chief, tuple(found))


COSTS = {
    "trials": "trials", "core_seconds": "core-seconds", "parameters": "parameters", "forward": FORWARD,
    "backward": BACKWARD, "step_seconds": "seconds per step",
}  # fmt: skip
"""Of a row that learnt: field and column."""


def _cost(each: Fields) -> dict[str, Cell]:
    if not each.has("cost"):
        return {}
    cost = each.object("cost")
    return {column: cost.cell(name) for name, column in COSTS.items()}


def arms_on(source: Source, split: str) -> Standings | None:
    """The arms on a split, of `compare-SPLIT.json`: gaps are the row minus the first arm."""
    stored = source.stored.get(f"compare-{split}.json")
    if stored is None:
        return None
    rows = []
    for each in stored.objects("rows"):
        seeds = each.content.get("seeds") or []
        extra: dict[str, Cell] = {"could show": each.maybe("resolvable"), "seeds": len(seeds)}
        rows.append(_row(each, each.object("reward"), "difference", extra))
    first = rows[0].label if rows else ""
    return Standings(f"arms-{split}", f"Greedy reward on {split}", f"minus {first}", first, tuple(rows))


def references(source: Source) -> Standings | None:
    """The references of a replay, of `references.json`.

    `{"rows": [{"label", "mean", "low", "high", ...}], "router": LABEL, "split": SPLIT}`: `router` (optional) names the
    searched router's row, `split` (optional) what was measured on; a row's `difference` (optional, {"mean", "low",
    "high"}) is the router minus the row, paired. Other fields become columns; a {"mean", "low", "high"} becomes three.
    """
    stored = source.stored.get("references.json")
    if stored is None:
        return None
    rows = []
    for each in stored.objects("rows"):
        rows.append(_row(each, each, "difference", _others(each, ("label", *SPREAD, "count", "difference"))))
    chief = stored.text("router") if stored.has("router") else ""
    title = f"Mean score on {stored.text('split')}" if stored.has("split") else "Mean score"
    return Standings("references", title, f"{chief or 'router'} minus this", chief, tuple(rows))


def standings(source: Source) -> list[Standings]:
    """All that are there and have rows."""
    arms = (arms_on(source, "validation"), arms_on(source, "test"))
    found = [comparison(source), on_test(source), *arms, references(source)]
    return [each for each in found if each is not None and each.rows]


def standings_table(found: Standings) -> Table:
    """Columns that no row fills are left out."""
    extras = tuple(dict.fromkeys(name for row in found.rows for name in row.extra))
    columns = ("row", *SPREAD, "questions", found.gap, f"{found.gap}, low", f"{found.gap}, high", *extras)
    rows = [
        (
            *(row.label, row.mean, row.low, row.high, row.count),
            *((row.gap.mean, row.gap.low, row.gap.high) if row.gap else (None, None, None)),
            *(row.extra.get(name) for name in extras),
        )
        for row in found.rows
    ]
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    return Table(
        found.file, found.title, tuple(columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows)
    )


def standings_section(source: Source) -> Section:
    """Every table with its figure; or how to get one."""
    found = standings(source)
    if not found:
        return Section("comparison", "Comparison", missing=_way(source))
    figures = tuple(_figure(each) for each in found)
    text = "Dots are means, bars 95 % intervals. A row whose difference spans zero cannot be told apart."
    return Section("comparison", "Comparison", (text,), tables(found), figures)


def tables(found: list[Standings]) -> tuple[Table, ...]:
    return tuple(standings_table(each) for each in found)


def _figure(found: Standings) -> Figure:
    best = max(found.rows, key=lambda row: row.mean)
    said = f"{found.title}, {len(found.rows)} rows; the highest is {best.label} with {best.mean:.3f}."
    marks = [(row.label, row.mean, row.low, row.high, row.label == found.chief) for row in found.rows]
    data = Table(
        f"{found.file}-figure", found.title, ("row", *SPREAD), tuple((label, *values) for label, *values, _ in marks)
    )
    return Figure(data, said, draw_intervals(data.name, found.title, said, marks))


def _row(each: Fields, reward: Fields, gap: str, extra: Mapping[str, Cell] | None = None) -> Standing:
    count = reward.maybe("count")
    return Standing(
        each.text("label"),
        reward.number("mean"),
        reward.maybe("low"),
        reward.maybe("high"),
        None if count is None else int(count),
        _gap(each.object(gap)) if each.has(gap) else None,
        extra or {},
    )


def _gap(fields: Fields) -> Gap:
    return Gap(fields.number("mean"), fields.maybe("low"), fields.maybe("high"))


def _others(each: Fields, known: tuple[str, ...]) -> dict[str, Cell]:
    extra: dict[str, Cell] = {}
    for name, value in each.content.items():
        if name in known:
            continue
        if isinstance(value, dict):
            spread = each.object(name)
            extra |= {name if part == "mean" else f"{name}, {part}": spread.maybe(part) for part in SPREAD}
        else:
            extra[name] = each.cell(name)
    return extra


def _way(source: Source) -> str:
    if source.kind == "run":
        return "a single run has none; `haps evaluate` measures its best checkpoint"
    if source.study and not source.study.sweep.comparison:
        return "the study has sweep.comparison: false"
    if source.ended is None:
        return "it is measured when the sweep ends"
    return "no report.json or compare-SPLIT.json in the sweep's folder"


@dataclass(frozen=True, slots=True)
class Placed:
    """A trial by its first two objectives, and whether it is on the front of all of them."""

    trial: int
    first: float
    second: float
    front: bool


def placed(source: Source) -> list[Placed]:
    """Search trials with a result, best first; none where there is one objective."""
    if len(source.objectives) < 2:
        return []
    one, two = (o.metric for o in source.objectives[:2])
    keeping = [t for t in source.ranked if not broken(t.metrics, source.constraints)]
    front = {t.number for t in pareto_front(keeping, source.objectives)}
    return [Placed(t.number, t.metrics[one], t.metrics[two], t.number in front) for t in source.ranked]


def front_section(source: Source) -> Section | None:
    """None for a single objective, which has no front."""
    if len(source.objectives) < 2:
        return None
    found = placed(source)
    if not found:
        return Section("front", "Pareto front", missing="no search trial has ended with a result yet")
    one, two = source.objectives[:2]
    numbers = ", ".join(f"{p.trial:03d}" for p in found if p.front)
    said = f"{one.mode} {one.metric} against {two.mode} {two.metric}; on the front: {numbers}."
    rows = tuple((p.trial, p.second, p.first, int(p.front)) for p in found)
    data = Table("front", "Pareto front", ("trial", two.metric, one.metric, "on front"), rows)
    dots = [Dot(p.second, p.first, "best" if p.front else "faint") for p in found]
    line = sorted((p.second, p.first) for p in found if p.front)
    keys = (Key("on the front", "best", "dot"), Key("other trials", "faint", "dot"))
    text = () if len(source.objectives) == 2 else ("The first two objectives are drawn; the front is that of all.",)
    svg = draw_points("front", "Pareto front", said, dots, two.metric, one.metric, line=line)
    return Section("front", "Pareto front", text, figures=(Figure(data, said, svg, keys),))
