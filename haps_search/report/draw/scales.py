"""Ticks and limits that several figures share."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from haps_search.report.draw.canvas import short, words


def number_ticks(axes: Axes, y: bool = True, whole: bool = False) -> None:
    """At most five plain numbers on each axis; `whole` numbers only on x, where it counts steps."""
    for axis in (axes.xaxis, axes.yaxis) if y else (axes.xaxis,):
        axis.set_major_locator(MaxNLocator(5, integer=whole and axis is axes.xaxis))
        plain = ScalarFormatter(useOffset=False, useMathText=False)
        plain.set_powerlimits((-4, 6))
        axis.set_major_formatter(plain)


def log_ticks(axes: Axes) -> None:
    """A logarithmic x axis with a few plain numbers, also within one decade."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    wide = high / low > 30
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_minor_formatter(NullFormatter())


def choice_ticks(axes: Axes, choices: tuple[str, ...]) -> None:
    """A place for each choice; long names are cut, many are thinned."""
    every = max(1, -(-len(choices) // 6))
    shown = list(enumerate(choices))[::every]
    axes.set_xticks([i for i, _ in shown], [words(c, max(6, 40 // len(shown))) for _, c in shown])
    axes.set_xlim(-0.5, len(choices) - 0.5)
