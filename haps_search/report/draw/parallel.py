"""Parallel coordinates from top to bottom: a level line per parameter, a thread per trial; fits a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from haps_search.report.draw.canvas import inline_svg, words
from haps_search.report.draw.colours import light

ROW = 64.0
MOST_MARKS = 5
PLATE = {"facecolor": light("panel"), "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
"""Behind words, so that threads do not cross them out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter: its label, and marks as (place from 0 to 1, text)."""

    label: str
    marks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Thread:
    """One trial: its place on every row, None where the parameter was not active."""

    places: tuple[float | None, ...]
    colour: str


def draw_parallel(name: str, title: str, description: str, rows: Sequence[Row], threads: Sequence[Thread]) -> str:
    """The first thread is drawn last."""

    def paint(axes: Axes) -> None:
        for place, row in enumerate(rows):
            _scale(axes, place, row)
        for thread in reversed(threads):
            _thread(axes, thread)
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(len(rows) - 0.62, -0.42)
        axes.set_axis_off()

    return inline_svg(name, title, description, paint, height=24 + ROW * len(rows))


def _scale(axes: Axes, place: int, row: Row) -> None:
    axes.plot([0, 1], [place, place], color=light("muted"), linewidth=1, zorder=1)
    axes.text(0, place - 0.12, words(row.label), va="bottom", zorder=5, bbox=PLATE)
    every = max(1, -(-len(row.marks) // MOST_MARKS))
    shown = row.marks[::every]
    for at, text in shown:
        side = "left" if at < 0.02 else "right" if at > 0.98 else "center"
        cut = words(text, max(6, 44 // len(shown)))
        axes.text(at, place + 0.1, cut, va="top", ha=side, fontsize=10.5, color=light("muted"), zorder=5, bbox=PLATE)


def _thread(axes: Axes, thread: Thread) -> None:
    """Solid from row to row, dotted past rows whose parameter was not active."""
    best = thread.colour == "best"
    there = [(place, row) for row, place in enumerate(thread.places) if place is not None]
    for (one, row), (other, next_row) in pairwise(there):
        axes.plot(
            [one, other], [row, next_row], color=light(thread.colour), linestyle="-" if next_row == row + 1 else ":",
            linewidth=2.4 if best else 1.3, zorder=4 if best else 3,
        )  # fmt: skip
    for place, row in there:
        axes.plot([place], [row], "o", color=light(thread.colour), markersize=4 if best else 2.5, zorder=4)
