"""The report as one HTML file that needs no network: inline style, inline SVG, everything else escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from haps_search.report.draw.colours import style_sheet
from haps_search.report.shape import Cell, Report

HERE = Path(__file__).parent


def page(report: Report) -> str:
    """The whole document."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = shown
    style = style_sheet() + (HERE / "page.css").read_text()
    return environment.get_template("page.html.jinja").render(report=report, style=style)


def shown(value: Cell) -> str:
    """A cell for reading: numbers short, three digits of small ones, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        if 1000 <= abs(value) < 1e6:
            return f"{value:.0f}"
        return f"{value:.3f}" if 0.1 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
    return str(value)
