"""The colours of a report. Figures are drawn in the light ones; inline, each becomes a variable with a dark side."""

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
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

THEME: dict[str, tuple[str, str]] = {
    "paper": ("#fdfdfc", "#15181c"),
    "panel": ("#f6f6f4", "#1d2126"),
    "ink": ("#1c1f23", "#e6e8ea"),
    "muted": ("#5b6168", "#a3aab2"),
    "grid": ("#dcdddb", "#353b42"),
    "link": ("#1d5fa8", "#7db4f0"),
    "best": ("#c2410c", "#fb923c"),
    "faint": ("#a9b0b8", "#5a636d"),
    "series0": ("#2b6cb0", "#63a4e8"),
    "series1": ("#2f855a", "#5bbf8a"),
    "series2": ("#8250c4", "#b794f4"),
    "series3": ("#b7791f", "#e3b341"),
    "series4": ("#b83280", "#f07fb9"),
    "series5": ("#1a8a94", "#4fd1d9"),
    "series6": ("#7b5e3b", "#c9a67a"),
    "series7": ("#69707a", "#98a1ab"),
    "ramp0": ("#d3dbe6", "#333d4b"),
    "ramp1": ("#a9c0dd", "#3f5878"),
    "ramp2": ("#7aa2d2", "#4a77ab"),
    "ramp3": ("#4a80bf", "#6299d8"),
    "ramp4": ("#1f5a9e", "#96c3f5"),
}
"""Name -> (light, dark). Light values differ from each other, so that a drawn one can be told."""


def light(name: str) -> str:
    return THEME[name][0]


def style_sheet() -> str:
    """Every colour as a variable, light and dark by what the reader prefers."""
    day = " ".join(f"--{name}: {bright};" for name, (bright, _) in THEME.items())
    night = " ".join(f"--{name}: {dark};" for name, (_, dark) in THEME.items())
    return f":root {{ {day} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {night} }} }}\n"


def variables(style: str) -> str:
    """A style with its known light colours as variables."""
    for name, (bright, _) in THEME.items():
        style = style.replace(bright, f"var(--{name})")
    return style


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
