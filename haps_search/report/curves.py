"""Learning curves: metrics over steps for every trial, the best one in front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from haps_search.report.charts import Line, draw_areas, draw_lines
from haps_search.report.shape import Figure, Key, Section, Table
from haps_search.report.source import Points, Source
from haps_search.sweep.events import TrialRecord

MOST_POINTS = 120
"""Points of one drawn line; longer records are averaged in groups of equal length."""
TITLES = {
    "reward": "Training reward",
    "validation_reward": "Validation reward",
    "validation_cost": "Validation cost",
    "validation_tokens": "Validation tokens",
    "step_seconds": "Seconds a step",
    "adapter_norm": "Adapter norm",
    "route_entropy": "Route entropy (nats)",
}
BEST, OTHERS, CONFIRM = "best trial", "other search trials", "confirming runs"
SERIES = 8


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial's metric over steps; `group` is its entry in the legend."""

    trial: int
    group: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric of all trials; every point is the mean of `stride` records, at the step of the last of them."""

    metric: str
    stride: int
    curves: tuple[Curve, ...]


def panels(source: Source) -> list[Panel]:
    """Reward, validation reward, every other objective and entropy, where they were recorded."""
    metrics = dict.fromkeys(["reward", "validation_reward", *(o.metric for o in source.objectives), "route_entropy"])
    found = [_panel(source, metric) for metric in metrics]
    return [panel for panel in found if panel.curves]


def groups(source: Source) -> dict[int, str]:
    """The legend's entry of every trial."""
    best = source.ranked[0].number if source.ranked and not source.arms else None
    return {t.number: _group(source, t, best) for t in source.trials}


def thinned(points: Sequence[tuple[int, float]], stride: int) -> tuple[tuple[int, float], ...]:
    """Means over groups of `stride` points, at the last step of each; what is not finite is left out."""
    kept = []
    for start in range(0, len(points), stride):
        part = points[start : start + stride]
        finite = [value for _, value in part if math.isfinite(value)]
        if finite:
            kept.append((part[-1][0], fmean(finite)))
    return tuple(kept)


def learning_section(source: Source) -> Section:
    """One figure per metric, with one legend's meaning for all."""
    found = panels(source)
    if not found:
        return Section("learning", "Learning curves", missing="no step has been recorded yet")
    return Section("learning", "Learning curves", figures=tuple(_figure(source, panel) for panel in found))


def styles(source: Source) -> dict[str, tuple[str, str]]:
    """(colour, mark) of every legend entry, in the order of the legend."""
    if source.kind == "run":
        return {"this run": ("best", "line")}
    if source.arms:
        marks = ("line", "dashed")
        return {a: (f"series{i % SERIES}", marks[i // SERIES % 2]) for i, a in enumerate(source.arms)}
    labels = dict.fromkeys(t.label for t in source.trials if t.kind == "comparison")
    compared = {label: (f"series{i % SERIES}", "dashed") for i, label in enumerate(labels, start=1)}
    return {BEST: ("best", "line"), OTHERS: ("faint", "line"), **compared, CONFIRM: ("series4", "dashed")}


def _panel(source: Source, metric: str) -> Panel:
    named = groups(source)
    raw = {t.number: _values(source.of(t), metric) for t in source.trials}
    stride = max(1, math.ceil(max((len(p) for p in raw.values()), default=0) / MOST_POINTS))
    curves = [Curve(number, named[number], thinned(points, stride)) for number, points in raw.items()]
    return Panel(metric, stride, tuple(c for c in curves if c.points))


def _values(points: Sequence[tuple[int, Mapping[str, float]]], metric: str) -> list[tuple[int, float]]:
    return [(step, metrics[metric]) for step, metrics in points if metric in metrics]


def _group(source: Source, trial: TrialRecord, best: int | None) -> str:
    if source.kind == "run":
        return "this run"
    if source.arms and trial.label in source.arms:
        return trial.label
    if trial.kind == "search":
        return BEST if trial.number == best else OTHERS
    return trial.label if trial.kind == "comparison" else CONFIRM


def _figure(source: Source, panel: Panel) -> Figure:
    look, title = styles(source), TITLES.get(panel.metric, panel.metric)
    rows = tuple((c.trial, c.group, step, value) for c in panel.curves for step, value in c.points)
    data = Table(f"learning-{panel.metric}", title, ("trial", "group", "step", panel.metric), rows)
    averaged = "" if panel.stride == 1 else f", each point the mean of {panel.stride} steps"
    said = f"{title} over steps, {len(panel.curves)} runs{averaged}.{_last(panel)}"
    lines = [Line(c.points, *look[c.group], front=c.group != OTHERS) for c in panel.curves]
    there = {c.group for c in panel.curves}
    keys = tuple(Key(_named(source, group), *look[group]) for group in look if group in there)
    return Figure(data, said, draw_lines(data.name, title, said, lines, "step"), keys)


def _last(panel: Panel) -> str:
    best = next((c for c in panel.curves if c.group in (BEST, "this run")), None)
    return f" The {best.group} ends at {best.points[-1][1]:.3f}." if best else ""


def _named(source: Source, group: str) -> str:
    return f"{BEST}, {source.ranked[0].number:03d}" if group == BEST else group


PREFIX, REST = "share/", "all others"


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares (K, N) of a run: rows are candidates, columns are steps."""

    trial: int
    title: str
    candidates: tuple[str, ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]


def shares(source: Source) -> list[Shares]:
    """Of the best trial; of each arm's first seed; of the run that is furthest while none has ended."""
    found = [_shares(trial, title, source.of(trial)) for trial, title in _shown(source)]
    return [each for each in found if each is not None]


def gathered(found: Shares) -> Shares:
    """At most 8 rows, in the order of before: all but the seven most used candidates are added up."""
    if len(found.candidates) <= SERIES:
        return found
    used = sorted(range(len(found.values)), key=lambda i: -math.fsum(found.values[i]))
    kept, others = sorted(used[: SERIES - 1]), used[SERIES - 1 :]
    rest = tuple(math.fsum(column) for column in zip(*(found.values[i] for i in others), strict=True))
    names = (*(found.candidates[i] for i in kept), REST)
    return Shares(found.trial, found.title, names, found.steps, (*(found.values[i] for i in kept), rest))


def shares_section(source: Source) -> Section:
    found = shares(source)
    if not found:
        return Section("routes", "Route shares", missing="no step with route shares has been recorded yet")
    text = "Share of the seats that each candidate took in training episodes."
    return Section("routes", "Route shares", (text,), figures=tuple(_shares_figure(each) for each in found))


def _shown(source: Source) -> list[tuple[TrialRecord, str]]:
    if source.kind == "run":
        return [(source.trials[0], "This run")]
    if source.arms:
        first: dict[str, TrialRecord] = {}
        for trial in source.trials:
            if source.of(trial):
                first.setdefault(trial.label, trial)
        return [(first[arm], f"{arm}, seed {first[arm].seed}") for arm in source.arms if arm in first]
    if source.ranked:
        return [(source.ranked[0], f"Best trial, {source.ranked[0].number:03d}")]
    furthest = max(source.trials, key=lambda t: len(source.of(t)), default=None)
    return [(furthest, f"Trial {furthest.number:03d}, the furthest so far")] if furthest else []


def _shares(trial: TrialRecord, title: str, points: Points) -> Shares | None:
    with_shares = [(s, m) for s, m in points if any(n.startswith(PREFIX) for n in m)]
    if not with_shares:
        return None
    names = dict.fromkeys(n.removeprefix(PREFIX) for _, m in with_shares for n in m if n.startswith(PREFIX))
    stride = max(1, math.ceil(len(with_shares) / MOST_POINTS))
    columns = {n: thinned([(s, m.get(PREFIX + n, 0.0)) for s, m in with_shares], stride) for n in names}
    steps = tuple(step for step, _ in next(iter(columns.values())))
    return Shares(trial.number, title, tuple(names), steps, tuple(tuple(v for _, v in c) for c in columns.values()))


def _shares_figure(found: Shares) -> Figure:
    rows = tuple((step, *(row[i] for row in found.values)) for i, step in enumerate(found.steps))
    data = Table(f"shares-{found.trial:03d}", found.title, ("step", *found.candidates), rows)
    drawn = gathered(found)
    last = ", ".join(f"{n} {row[-1]:.2f}" for n, row in zip(drawn.candidates, drawn.values, strict=True))
    said = f"Route shares over steps; at the end: {last}."
    keys = tuple(Key(name, f"series{i}", "area") for i, name in enumerate(drawn.candidates))
    return Figure(data, said, draw_areas(data.name, found.title, said, drawn.steps, drawn.values), keys)
