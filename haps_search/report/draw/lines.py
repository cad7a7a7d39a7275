"""Many lines over one axis, some in front of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from haps_search.report.draw.canvas import inline_svg
from haps_search.report.draw.colours import light
from haps_search.report.draw.scales import number_ticks


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) in a colour of the theme; `mark` is line or dashed, `front` lines lie over the others."""

    points: Sequence[tuple[float, float]]
    colour: str
    mark: str = "line"
    front: bool = True


def draw_lines(name: str, title: str, description: str, lines: Sequence[Line], xlabel: str) -> str:
    def paint(axes: Axes) -> None:
        for line in lines:
            x, y = zip(*line.points, strict=True)
            lone = "o" if len(x) == 1 else ""
            axes.plot(
                x, y, color=light(line.colour), linestyle="--" if line.mark == "dashed" else "-", marker=lone,
                markersize=4, linewidth=2 if line.colour == "best" else 1.3 if line.front else 0.9,
                zorder=4 if line.colour == "best" else 3 if line.front else 2,
            )  # fmt: skip
        axes.set_xlabel(xlabel)
        number_ticks(axes, whole=True)

    return inline_svg(name, title, description, paint)
