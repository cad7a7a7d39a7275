"""Horizontal bars, each under its label."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from haps_search.report.draw.canvas import inline_svg, words
from haps_search.report.draw.colours import light
from haps_search.report.draw.scales import number_ticks

ROW = 36.0


def draw_bars(name: str, title: str, description: str, bars: Sequence[tuple[str, float]]) -> str:
    """From top to bottom, from 0."""

    def paint(axes: Axes) -> None:
        places = range(len(bars))
        axes.barh(list(places), [value for _, value in bars], height=0.38, color=light("series0"))
        for place, (label, value) in enumerate(bars):
            axes.text(0, place - 0.3, words(f"{label}: {value:.2f}"), va="bottom")
        axes.set_ylim(len(bars) - 0.6, -0.95)
        axes.set_yticks([])
        axes.spines["left"].set_color(light("grid"))
        axes.grid(axis="y", visible=False)
        number_ticks(axes, y=False)

    return inline_svg(name, title, description, paint, height=48 + ROW * len(bars))
