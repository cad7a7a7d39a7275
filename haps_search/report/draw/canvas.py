"""One pair of axes as inline SVG: no size of its own, colours as variables, ids of its own, title and description."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from haps_search.report.draw.colours import light, variables

WIDTH = 340.0
"""User units, about CSS pixels on a phone; wider places scale it up."""
SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
DATES = {"Creator": None, "Date": None, "Format": None, "Type": None}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "haps",
    "text.parse_math": False,
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": light("muted"),
    "axes.labelcolor": light("muted"),
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": light("grid"),
    "text.color": light("ink"),
    "xtick.color": light("muted"),
    "ytick.color": light("muted"),
    "lines.linewidth": 1.6,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def inline_svg(name: str, title: str, description: str, paint: Callable[[Axes], None], height: float = 250.0) -> str:
    """What `paint` draws, the same bytes for the same drawing; `name` makes its ids differ from other figures'."""
    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        # The reader's fonts draw the text; which glyphs matplotlib's own font has does not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        paint(figure.subplots())
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata=DATES)
    return _inlined(text.getvalue(), f"figure-{name}", title, description)


def words(text: str, most: int = 44) -> str:
    """A label that XML can hold and that fits."""
    clean = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return clean if len(clean) <= most else f"{clean[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def short(value: float, _: object = None) -> str:
    """A tick's number."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def _inlined(drawn: str, name: str, title: str, description: str) -> str:
    root = ElementTree.fromstring(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _adopt(element, name)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib |= {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    for place, (tag, said) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = words(said, 1000)
        root.insert(place, element)
    ElementTree.register_namespace("", SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Ids and what refers to them get the figure's name; colours become variables."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set("id", f"{name}-{value}")
        elif key == HREF:
            del element.attrib[HREF]
            element.set("href", value.replace("#", f"#{name}-"))
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        elif key in ("style", "fill", "stroke"):
            element.set(key, variables(value))
    # As attributes, variables mean nothing; as style they do.
    for key in ("fill", "stroke"):
        if element.get(key, "").startswith("var("):
            element.set("style", f"{key}: {element.attrib.pop(key)}; {element.get('style', '')}")
