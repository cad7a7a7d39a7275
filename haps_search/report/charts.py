"""The kinds of figures: lines, areas, points, bars, intervals, parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from haps_search.report.canvas import choice_ticks, inline_svg, light, log_ticks, number_ticks, words


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


BAR = 36.0


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

    return inline_svg(name, title, description, paint, height=48 + BAR * len(bars))


MARK = 36.0
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

    return inline_svg(name, title, description, paint, height=48 + MARK * len(marks))


AXIS = 64.0
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

    return inline_svg(name, title, description, paint, height=24 + AXIS * len(rows))


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
