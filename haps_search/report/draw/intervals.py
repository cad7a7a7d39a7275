"""Means with their intervals, a row each under its label."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from haps_search.report.draw.canvas import inline_svg, words
from haps_search.report.draw.colours import light
from haps_search.report.draw.scales import number_ticks

ROW = 36.0
Mark = tuple[str, float, float | None, float | None, bool]
"""Label, mean, low, high, and whether it is the row that matters most."""


def draw_intervals(name: str, title: str, description: str, marks: Sequence[Mark]) -> str:
    """From top to bottom."""

    def paint(axes: Axes) -> None:
        for place, (_, mean, low, high, chief) in enumerate(marks):
            colour = light("best" if chief else "series0")
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.7)
            axes.plot([mean], [place], "o", color=colour, markersize=6)
        axes.margins(x=0.04)
        left = axes.get_xlim()[0]
        for place, (label, mean, *_) in enumerate(marks):
            axes.text(left, place - 0.24, words(f"{label}: {mean:.3f}"), va="bottom")
        axes.set_xlim(left=left)
        axes.set_ylim(len(marks) - 0.6, -0.95)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        number_ticks(axes, y=False)

    return inline_svg(name, title, description, paint, height=48 + ROW * len(marks))
