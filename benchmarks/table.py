"""The figures as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import Figure

_REACHED = {True: "yes", False: "no", None: "-"}


def table(figures: Sequence[Figure]) -> str:
    """One row a figure: median, quartiles over rounds, target, and whether it was reached."""
    head = ["| name | ratio | measured | quartiles | to reach | reached |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *map(_row, figures)]) + "\n"


def _row(figure: Figure) -> str:
    low, high = figure.quartiles
    target = "stated" if figure.target is None else str(figure.target)
    spread = f"{low:.3f} to {high:.3f}" if len(figure.rounds) > 1 else "once"
    cells = (figure.name, figure.what, f"{figure.median:.3f}", spread, target, _REACHED[figure.reached])
    return f"| {' | '.join(cells)} |"


def page(figures: Sequence[Figure], where: Mapping[str, Any]) -> str:
    """The table with where it was measured."""
    versions = ", ".join(f"{name} {where[name]}" for name in ("python", "torch", "transformers", "ray"))
    return (
        f"{table(figures)}\nMeasured at {where['commit']} in {where['minutes']} minutes: {where['cores']} cores of "
        f"{where['cpu']}, {where['threads']} threads, seed {where['seed']}; {versions}.\n"
    )
