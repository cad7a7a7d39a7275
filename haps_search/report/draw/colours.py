"""The colours of a report. Figures are drawn in the light ones; inline, each becomes a variable with a dark side."""

from __future__ import annotations

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
