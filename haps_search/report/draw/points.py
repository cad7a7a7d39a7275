"""Dots over two axes, with lines where they mean something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from haps_search.report.draw.canvas import inline_svg, words
from haps_search.report.draw.colours import light
from haps_search.report.draw.scales import choice_ticks, log_ticks, number_ticks


@dataclass(frozen=True, slots=True)
class Dot:
    """A point in a colour of the theme, with a label beside it where it has one."""

    x: float
    y: float
    colour: str
    hollow: bool = False
    label: str = ""


def draw_points(
    name: str, title: str, description: str, dots: Sequence[Dot], xlabel: str, ylabel: str,
    line: Sequence[tuple[float, float]] = (), log: bool = False, choices: tuple[str, ...] = (),
    beside: Sequence[tuple[float, float]] = (),
) -> str:  # fmt: skip
    """`line` is drawn in the colour `best`, `beside` dashed in `series1`."""

    def paint(axes: Axes) -> None:
        if line:
            axes.plot(*zip(*line, strict=True), color=light("best"), linewidth=1.4, zorder=2)
        if beside:
            axes.plot(*zip(*beside, strict=True), "--", color=light("series1"), linewidth=1.2, zorder=2)
        for dot in sorted(dots, key=lambda d: d.colour == "best"):
            face = "none" if dot.hollow else light(dot.colour)
            axes.plot([dot.x], [dot.y], "o", markersize=6, markeredgecolor=light(dot.colour), markerfacecolor=face)
            if dot.label:
                _name(axes, dot, sum(d.x for d in dots) / len(dots))
        axes.set_xlabel(words(xlabel))
        axes.set_ylabel(words(ylabel, 32))
        axes.margins(0.08)
        number_ticks(axes)
        if choices:
            choice_ticks(axes, choices)
        if log:
            log_ticks(axes)

    return inline_svg(name, title, description, paint)


def _name(axes: Axes, dot: Dot, middle: float) -> None:
    """The label below the dot, towards the middle, so that it stays within the axes."""
    side, away = ("left", 5) if dot.x <= middle else ("right", -5)
    axes.annotate(
        words(dot.label, 26), (dot.x, dot.y), (away, -4), textcoords="offset points", fontsize=10, ha=side, va="top",
        bbox={"facecolor": light("panel"), "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
    )  # fmt: skip
