"""How much each parameter mattered. Optuna computes it, at the rim (`sweep.importance`); here it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from haps_search.report.draw.bars import draw_bars
from haps_search.report.parameters import short_labels
from haps_search.report.shape import Figure, Section, Table
from haps_search.report.source import Source

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
