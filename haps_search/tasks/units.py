"""Units of measurement, by `pint`, and words that only look like some."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_CURRENCIES = {
    "usd": ("$", "dollar", "dollars"), "eur": ("€", "euro", "euros"), "gbp": ("£",), "jpy": ("¥", "yen"), "inr": ("₹",),
    "rub": ("₽",), "krw": ("₩",),
}  # fmt: skip
_MONEY = {name: code for code, names in _CURRENCIES.items() for name in (code, *names)}
_HUNDREDTHS = {
    **dict.fromkeys(("cent", "cents", "ct", "cts", "¢"), "cent"),
    **dict.fromkeys(("penny", "pennies", "pence"), "penny"),
}
_WHOLE = {"cent": ("usd", "eur"), "penny": ("gbp", "usd")}
# Words that follow numbers, and are units to pint.
_NO_UNIT = re.compile(
    r"an?|and|are|as|at|be|because|but|by|for|from|if|in|is|it|more|less|no|not|of|on|or|so|since|than|that|the|then|there"
    r"|this|to|total|was|we|were|which|with|you|per|each|und|ist|oder|et|ou|est|y|o|es|e|da|do",
    re.IGNORECASE,
)
_SPELT = {
    "°c": "degC",
    "°f": "degF",
    "°k": "kelvin",
    "km/h": "km/hour",
    "kph": "km/hour",
    "sec": "second",
    "secs": "second",
}


def unit_name(written: str) -> str:
    """A unit as it is compared; "" for words such as "in" and "is", which follow numbers too."""
    name = " ".join(written.split())
    if name.casefold() in _MONEY:
        return _MONEY[name.casefold()]
    if name.casefold() in _HUNDREDTHS:
        return _HUNDREDTHS[name.casefold()]
    first, *others = name.split(" per ")
    if _NO_UNIT.fullmatch(first):
        return ""
    return _SPELT.get(name.replace(" ", "").casefold(), "/".join((first, *others)).replace(" ", ""))


def converted(value: float, unit: str, wanted: str) -> float | None:
    """The value in another unit; None where the two measure different things.

    A word that is no unit of measurement ("42 apples") says nothing of the value, which stays as it is.
    """
    if _singular(unit) == _singular(wanted):
        return value
    if wanted in _WHOLE.get(unit, ()):
        return value / 100
    if unit in _WHOLE.get(wanted, ()):
        return value * 100
    money = {*_MONEY.values(), *_WHOLE}
    if {unit, wanted} & money:
        return None if unit in money and wanted in money else value
    known, other = _known(unit), _known(wanted)
    if known is None or other is None:
        return value
    if known.dimensionality != other.dimensionality:
        return None
    return float(_registry().Quantity(value, known).to(other).magnitude)


def _singular(unit: str) -> str:
    folded = unit.casefold()
    return folded[:-1] if len(folded) > 3 and folded.endswith("s") else folded


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # half a second, and few references have a unit

    return pint.UnitRegistry()


@lru_cache(maxsize=1024)
def _known(unit: str) -> Any:
    """What `pint` takes a unit for, None where it does not know it."""
    import pint

    for name in dict.fromkeys((unit, unit.lower())):
        try:
            return _registry().parse_units(name)
        except (pint.errors.UndefinedUnitError, pint.errors.DefinitionSyntaxError, ValueError, TypeError):
            continue
    return None
