"""Parameters against objectives: every search trial with a result, as coordinates and as points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haps_search.config.conditions import canonical, ordered
from haps_search.config.distributions import Choice, Distribution, LogRange
from haps_search.config.sweep import Study
from haps_search.report.charts import Dot, Row, Thread, draw_bars, draw_parallel, draw_points
from haps_search.report.shape import Cell, Figure, Key, Section, Table
from haps_search.report.source import Source
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.ranking import broken

LEVELS = 5
DOTS = (Key("best trial", "best", "dot"), Key("finished", "series0", "dot"), Key("stopped early", "series0", "ring"))
RAMP = (
    *(Key("best trial", "best"), Key("best fifth of trials", f"ramp{LEVELS - 1}"), Key("worst fifth", "ramp0")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter's scale: a range, or choices at equal distances in the order they were written."""

    name: str
    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def coordinate(self, value: Any) -> float:
        """Where a value stands on a drawn axis: a choice's number, else the value itself."""
        return float(self.choices.index(canonical(value))) if self.choices else float(value)

    def place(self, value: Any) -> float:
        """From 0 to 1 along the axis; a scale of one value has it in the middle."""
        low, high = (0.0, len(self.choices) - 1.0) if self.choices else (self.low, self.high)
        at = self.coordinate(value)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.5


def axes(study: Study) -> list[Axis]:
    """One per parameter, parents first."""
    labels = short_labels(list(study.space))
    return [_axis(name, labels[name], study.space[name]) for name in ordered(study.space)]


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """The last two parts of each path, or all of it where that would name two parameters alike."""
    short = {name: ".".join(name.split(".")[-2:]) for name in names}
    return {name: label if list(short.values()).count(label) == 1 else name for name, label in short.items()}


def levels(values: Sequence[float], maximise: bool) -> list[int]:
    """0 (worst fifth) to 4 (best fifth) by rank; ties share the better level."""
    gains = values if maximise else [-v for v in values]
    return [math.ceil(LEVELS * sum(other <= own for other in gains) / len(gains)) - 1 for own in gains]


def trials_table(source: Source) -> Table:
    """Every trial of the sweep with its parameters and objectives."""
    names = list(dict.fromkeys(n for t in source.trials for n in t.parameters))
    metrics = [o.metric for o in source.objectives]
    order = {t.number: place for place, t in enumerate(source.ranked)}
    rows = [
        (
            *(t.number, t.label or t.kind, t.state, t.seed, source.of(t)[-1][0] if source.of(t) else None),
            *(_finite(t.metrics.get(m)) for m in metrics),
            *([_breaks(t, source)] if source.constraints else ()),
            *(cell(t.parameters.get(n)) for n in names),
        )
        for t in sorted(source.trials, key=lambda t: (order.get(t.number, len(order)), t.number))
    ]
    labels = short_labels(names)
    breaks = ("breaks",) if source.constraints else ()
    columns = ("trial", "what", "state", "seed", "steps", *metrics, *breaks, *(labels[n] for n in names))
    return Table("trials", "Trials, best first", columns, tuple(rows))


def _breaks(trial: TrialRecord, source: Source) -> str | None:
    """Which constraints; nothing where they are kept, or there is nothing to judge."""
    return ", ".join(broken(trial.metrics, source.constraints)) or None


def trials_section(source: Source) -> Section:
    if not source.trials:
        return Section("trials", "Trials", missing="no trial has begun yet")
    return Section("trials", "Trials", tables=(trials_table(source),))


def parallel_section(source: Source) -> Section:
    """Every trial as a line across its parameters and its objective."""
    study, found = source.study, source.ranked
    missing = _missing(source)
    if missing or study is None:
        return Section("parallel", "Parallel coordinates", missing=missing)
    objective = source.objectives[0]
    values = [t.metrics[objective.metric] for t in found]
    scales = [*axes(study), Axis(objective.metric, objective.metric, min(values), max(values))]
    rows = [{**t.parameters, objective.metric: v} for t, v in zip(found, values, strict=True)]
    colours = ["best", *(f"ramp{level}" for level in levels(values, objective.mode == "max")[1:])]
    data = _long(found, scales, rows)
    threads = [
        Thread(tuple(a.place(row[a.name]) if a.name in row else None for a in scales), colour)
        for row, colour in zip(rows, colours, strict=True)
    ]
    title = "Parameters of every trial"
    said = f"{len(found)} search trials, a line each, from parameter to parameter down to {objective.metric}."
    keys = RAMP if len(found) > LEVELS else RAMP[:1]
    svg = draw_parallel(data.name, title, said, [_row(a) for a in scales], threads)
    return Section("parallel", "Parallel coordinates", figures=(Figure(data, said, svg, keys),))


def scatter_section(source: Source) -> Section:
    """Every parameter against the first objective."""
    study, missing = source.study, _missing(source)
    if missing or study is None:
        return Section("scatter", "Parameter and objective", missing=missing)
    figures = tuple(_scatter(source, axis, number) for number, axis in enumerate(axes(study)))
    return Section("scatter", "Parameter and objective", figures=figures)


def cell(value: Any) -> Cell:
    """A parameter's value in a table: plain where it is, else JSON."""
    if value is None or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    return canonical(value)


def _axis(name: str, label: str, distribution: Distribution) -> Axis:
    if isinstance(distribution, Choice):
        return Axis(name, label, choices=tuple(canonical(v) for v in distribution.values))
    return Axis(name, label, float(distribution.low), float(distribution.high), isinstance(distribution, LogRange))


def _row(axis: Axis) -> Row:
    if axis.choices:
        last = max(len(axis.choices) - 1, 1)
        marks = tuple((i / last if len(axis.choices) > 1 else 0.5, c.strip('"')) for i, c in enumerate(axis.choices))
    else:
        marks = ((0.0, f"{axis.low:.3g}"), (1.0, f"{axis.high:.3g}"))
    return Row(axis.label, marks)


def _scatter(source: Source, axis: Axis, number: int) -> Figure:
    metric = source.objectives[0].metric
    shown = [t for t in source.ranked if axis.name in t.parameters]
    rows = tuple((t.number, t.state, cell(t.parameters[axis.name]), t.metrics[metric]) for t in shown)
    data = Table(f"scatter-{number:02d}", axis.label, ("trial", "state", axis.name, metric), rows)
    best = source.ranked[0].number
    dots = [_dot(t, axis, metric, t.number == best) for t in shown]
    said = f"{metric} of {len(shown)} search trials by {axis.name}."
    keys = tuple(k for k, there in zip(DOTS, _kinds(dots), strict=True) if there)
    choices = tuple(c.strip('"') for c in axis.choices)
    svg = draw_points(data.name, axis.label, said, dots, axis.label, metric, log=axis.log, choices=choices)
    return Figure(data, said, svg, keys)


def _dot(trial: TrialRecord, axis: Axis, metric: str, best: bool) -> Dot:
    at = axis.coordinate(trial.parameters[axis.name])
    return Dot(at, trial.metrics[metric], "best" if best else "series0", hollow=trial.state == "stopped")


def _kinds(dots: Sequence[Dot]) -> tuple[bool, bool, bool]:
    plain = [d for d in dots if d.colour != "best"]
    return len(plain) < len(dots), any(not d.hollow for d in plain), any(d.hollow for d in plain)


def _long(found: Sequence[TrialRecord], scales: Sequence[Axis], rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = tuple((t.number, *(cell(row.get(a.name)) for a in scales)) for t, row in zip(found, rows, strict=True))
    return Table("parallel", "Parameters of every trial", ("trial", *(a.name for a in scales)), cells)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _missing(source: Source) -> str:
    if source.study is None or not source.study.space:
        return "no space was searched"
    return "" if source.ranked else "no search trial has ended with a result yet"


FEWEST = 4
RELIABLE = 20


@dataclass(frozen=True, slots=True)
class Importance:
    """Shares of importance by parameter, adding up to 1, for one objective over so many trials."""

    objective: str
    evaluator: str
    trials: int
    values: Mapping[str, float]


def why_not(source: Source) -> str:
    """Why importance cannot be computed, empty where it can."""
    if source.study is None or not source.study.space:
        return "no space was searched"
    found = source.ranked
    if len(found) < FEWEST:
        return f"{len(found)} search trials have a result, {FEWEST} are needed"
    if all(len({t.metrics[o.metric] for t in found}) == 1 for o in source.objectives):
        return "all trials have the same result"
    return ""


def importance_section(source: Source, found: Sequence[Importance]) -> Section:
    """A figure per objective, or why there is none."""
    if not found:
        return Section("importance", "Parameter importance", missing=why_not(source) or "it was not computed")
    first = found[0]
    text = [f"{first.evaluator} over {first.trials} search trials; the shares add up to 1."]
    if first.trials < RELIABLE:
        text.append(f"With fewer than {RELIABLE} trials the order is a hint, not a finding.")
    figures = tuple(_figure(each, number) for number, each in enumerate(found))
    return Section("importance", "Parameter importance", tuple(text), figures=figures)


def _figure(found: Importance, number: int) -> Figure:
    order = sorted(found.values.items(), key=lambda item: (-item[1], item[0]))
    title = f"Importance for {found.objective}"
    data = Table(f"importance-{number}", title, ("parameter", "importance"), tuple(order))
    said = f"{found.evaluator}: " + ", ".join(f"{name} {value:.2f}" for name, value in order) + "."
    labels = short_labels([name for name, _ in order])
    return Figure(data, said, draw_bars(data.name, title, said, [(labels[n], v) for n, v in order]))
