"""Shares stacked to 1 over steps."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from haps_search.report.draw.canvas import inline_svg
from haps_search.report.draw.colours import light
from haps_search.report.draw.scales import number_ticks


def draw_areas(name: str, title: str, description: str, steps: Sequence[int], shares: Sequence[Sequence[float]]) -> str:
    """`shares` is (K, N); the first row lies at the bottom."""
    # One step is drawn as a block.
    x = [steps[0] - 0.5, steps[0] + 0.5] if len(steps) == 1 else list(steps)
    rows = [[row[0], row[0]] if len(steps) == 1 else list(row) for row in shares]

    def paint(axes: Axes) -> None:
        axes.stackplot(x, *rows, colors=[light(f"series{i}") for i in range(len(rows))], alpha=0.85, linewidth=0)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(0, 1)
        axes.set_xlabel("step")
        axes.grid(visible=False)
        number_ticks(axes, whole=True)

    return inline_svg(name, title, description, paint)
