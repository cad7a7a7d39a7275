"""The Pareto front of a sweep with several objectives."""

from __future__ import annotations

from dataclasses import dataclass

from haps_search.report.draw.points import Dot, draw_points
from haps_search.report.shape import Figure, Key, Section, Table
from haps_search.report.source import Source
from haps_search.sweep.ranking import pareto_front


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
    front = {t.number for t in pareto_front(source.ranked, source.objectives)}
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
