"""Which number a chat answer states, and whether it is the reference's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from haps_search.config.rewards import NumericReward
from haps_search.tasks.choice_words import ANSWER, IS, NOT, UNKNOWN
from haps_search.tasks.markup import plain, spoken
from haps_search.tasks.normalise import fold
from haps_search.tasks.stated import marked, nothing
from haps_search.tasks.units import converted, unit_name
from haps_search.types import Parsed


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written; `value` has percent taken as hundredths, `unit` is "" where there is none."""

    text: str
    value: float
    percent: bool = False
    unit: str = ""


_SCALES = {
    **dict.fromkeys(("thousand", "tausend", "mille", "mil", "千", "тысяч"), 1e3),
    **dict.fromkeys(("million", "millions", "millionen", "millón", "millones", "mn", "миллионов", "百万"), 1e6),
    **dict.fromkeys(("billion", "billions", "milliarden", "milliards", "bn", "миллиардов", "十亿"), 1e9),
    **dict.fromkeys(("trillion", "trillions", "billionen"), 1e12),
    "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8, "k": 1e3,
}  # fmt: skip
_CURRENCY = "$€£¥₹₽₩"
_PERCENT = r"%|percent(?:age points?)?\b|per cent\b|pct\b|prozent\b|pour ?cent\b|por ?ciento\b|por ?cento\b|процент\w*"
_UNIT = r"°\s?[CFK]\b|[^\W\d_°]+\d?(?:\^-?\d)?(?:\s?(?:/|per\s)\s?[^\W\d_]+(?:\^-?\d)?)?|[$€£¥₹₽₩¢]"


def _number(decimal: str) -> re.Pattern[str]:
    point, comma = (r"\.", ",") if decimal == "." else (",", r"\.")
    digits = rf"(?:\d{{1,3}}(?:[{comma}' ]\d{{3}})+(?!\d)|\d+)(?:{point}\d+)?|{point}\d+"
    return re.compile(
        rf"(?<![A-Za-z0-9_.^])(?P<sign>(?:(?<![\w)] )[-+](?![-+])\s?)?)(?P<money>[{_CURRENCY}]?)\s?(?P<sign2>-?)"
        rf"(?:(?:(?P<whole>\d+) )?(?P<over>{digits})\s?/\s?(?P<under>\d+)(?![\d/])|(?P<digits>(?>{digits})))"
        # Another power than of a whole number is no number, and never its base.
        r"(?:\s?\^\s?(?P<exponent>[-+]?(?>\d+))(?![.,]\d)|(?!\s?\)?\s?\^))"
        r"(?:\s?\*\s?10\s?\^\s?\{?(?P<power>[-+]?\d+)\}?|[eE](?P<e>[-+]?\d+))?"
        rf"(?:\s?(?P<percent>{_PERCENT})|\s?(?P<scale>{'|'.join(_SCALES)})(?![^\W\d_]))?"
        rf"(?:\s?(?P<unit>{_UNIT}))?",
        re.IGNORECASE,
    )


_PATTERNS = {decimal: _number(decimal) for decimal in (".", ",")}


def quantities(text: str, decimal: str = ".") -> Iterator[tuple[int, Quantity]]:
    """The numbers of a text as `written` gives it, each with the place where it begins."""
    for found in _PATTERNS[decimal].finditer(text):
        try:
            value = _plain_value(found, decimal) * 10.0 ** float(found["power"] or found["e"] or 0)
        except (OverflowError, ZeroDivisionError):
            continue
        value *= -1 if "-" in (found["sign"] + found["sign2"]) else 1
        value *= _SCALES[found["scale"].lower()] if found["scale"] else 1.0
        value /= 100 if found["percent"] else 1
        unit = unit_name(found["money"] or found["unit"] or "")
        if math.isfinite(value):
            shown = found[0][: found.start("unit") - found.start()] if found["unit"] and not unit else found[0]
            yield found.end() - len(found[0].lstrip()), Quantity(shown.strip(), value, bool(found["percent"]), unit)


def _plain_value(found: re.Match[str], decimal: str) -> float:
    power = float(found["exponent"] or 1)
    if found["under"] is None:
        return _decimal(found["digits"], decimal) ** power
    return int(found["whole"] or 0) + _decimal(found["over"], decimal) / float(found["under"]) ** power


def _decimal(digits: str, decimal: str) -> float:
    bare = re.sub(r"[,' ]" if decimal == "." else r"[.' ]", "", digits)
    return float(bare.replace(",", "."))


_FRACTION = re.compile(r"(\d)?\s*\\[dt]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)(\d))")
_LATEX = ((re.compile(r"\\(?:times|cdot)\b"), "*"), (re.compile(r"\{,\}|\\,"), ","), (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\?circ)|\\degree"), "°"))  # fmt: skip  # noqa: E501


_POWERS = (
    (re.compile(r"(?<=\d)\*\*(?=[-+]?\d)"), "^"),
    (re.compile(r"\^\s*\{?(?:st|nd|rd|th)\b\}?"), ""),
    (re.compile(r"\^\s*\{\s*([-+]?\d+)\s*\}|\^\s*\(\s*([-+]?\d+)\s*\)"), r"^\1\2"),
    (re.compile(r"\^\s*(?:\{[^{}]*\}|\([^()]*\))"), "^?"),
    (re.compile(r"\((\d[\d.,]*)\)(?=\s*\^)"), r"\1"),
)


def written(text: str) -> str:
    """A text in which numbers stand as numbers: markup seen through, LaTeX fractions and powers written out."""
    text = _FRACTION.sub(lambda m: f"{m[1] + ' ' if m[1] else ''}{m[2] or m[4]}/{m[3] or m[5]}", text)
    for pattern, plainly in _LATEX:
        text = pattern.sub(plainly, text)
    text = fold(plain(text))
    for power, plainly in _POWERS:
        text = power.sub(plainly, text)
    return text


_CUED = re.compile(rf"(?:{ANSWER})(?P<gap>[^.!?\n]{{0,60}}?)(?:{IS})(?=(?P<said>[^\n]*))", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")
_OR = re.compile(r"[\s,]*(?:or|oder|ou|o|или|或者?|または|and|und|et|y)\s*", re.IGNORECASE)


_UNKNOWN = re.compile(rf"(?:{UNKNOWN})", re.IGNORECASE)


def read_number(text: str, config: NumericReward) -> Parsed:
    """The number that a text states: after `####`, in a box or tag, after "the answer is" (behind the last `=`
    that is not in an aside), or else its last one. Numbers joined by "or" are several at once, and none is read."""
    said = spoken(text)
    if not said:
        return nothing(text)
    stated: list[tuple[Quantity, str]] = []
    for place, how in _places(said):
        found = _said(place, config.decimal)
        if isinstance(found, str):
            return Parsed(None, found)
        stated += [(found, how)] if found else []
    if not stated:
        return _last(written(said), config.decimal)
    every = tuple(dict.fromkeys(each.text for each, _ in stated))
    values = {each.value for each, _ in stated}
    return Parsed(stated[-1][0].text, stated=every if len(values) > 1 else (), how=stated[-1][1])


def _places(said: str) -> Iterator[tuple[str, str]]:
    """What stands where answers are stated, in order, and which kind of place it is."""
    if found := marked(said):
        yield from ((written(one.content), one.how) for one in found)
        return
    text = re.sub(r"(?<=[:=])\s*\n\s*", " ", written(said))
    for cued in _CUED.finditer(text):
        sentence = _SENTENCE.split(cued["said"], maxsplit=1)[0]
        if not re.match(rf"\s*(?:{NOT})", sentence, re.IGNORECASE):
            yield sentence, "stated"


def _said(place: str, decimal: str) -> Quantity | str | None:
    """The number of a place, what is wrong with it, or None where it has none."""
    place = _without_aside(place, decimal)
    if len(several := _equations(place, decimal)) > 1:
        return f"the text states several numbers at once: {', '.join(several)}"
    behind = place[place.rfind("=") + 1 :]
    found = list(quantities(behind, decimal)) or list(quantities(place, decimal))
    if not found:
        return None
    (at, first), *others = found
    if others and _OR.fullmatch(behind[at + len(first.text) : others[0][0]]) and others[0][1].value != first.value:
        return f"the text states several numbers at once: {first.text}, {others[0][1].text}"
    return first


_ASIDE = re.compile(
    r",\s(?!\s*(?:[\d(+-]|or\b|oder\b|ou\b|o\b|y\b|and\b|und\b|et\b))|;\s"
    r"|\s\((?!(?:or|oder|ou|o|and|und|et|y)\b)(?=[^()]*[^\W\d][^()]*\)(?!\s*[=*/+^-]))"
    r"|\b(?:when|if|for|at|with|where|because|since|as|given|obtained|using|by|wenn|falls|mit|weil|da|pour|avec|car"
    r"|cuando|si|para|con|porque)\b",
    re.IGNORECASE,
)
_EITHER = re.compile(r"[\s,(]+(?:or|oder|ou|o|или)\s+|\s*(?:或者?|または)\s*", re.IGNORECASE)
_BOTH = re.compile(r"[\s,(]+(?:and|und|et|y)\s+", re.IGNORECASE)
_EQUATION = re.compile(r"[^=]*=")
_NAMED = re.compile(r"[\s$(]*[^\W\d]\w{0,2}\s*=")


def _without_aside(place: str, decimal: str) -> str:
    """A place up to "when x = 2" and its like, where what stands before is an equation or a single number."""
    for aside in _ASIDE.finditer(place):
        own = place[: aside.start()]
        count = sum(1 for _ in quantities(own, decimal))
        if count:
            return own if count == 1 or "=" in own else place
    return place


def _equations(place: str, decimal: str) -> tuple[str, ...]:
    """The numbers of "x = 4 or x = -4" and of "x = 4 and y = 5"; "2x = 10 and so x = 5" goes on to one."""
    for joint, equation in ((_EITHER, _EQUATION), (_BOTH, _NAMED)):
        parts = joint.split(place)
        if len(parts) > 1 and all(equation.match(part) for part in parts):
            ends = [
                next((each for _, each in quantities(part[part.rfind("=") + 1 :], decimal)), None) for part in parts
            ]
            return tuple({each.value: each.text for each in ends if each}.values())
    return ()


def _last(text: str, decimal: str) -> Parsed:
    found = list(quantities(text, decimal))
    if not found:
        return Parsed(None, "the text has no number")
    if unknown := _UNKNOWN.search(text):
        return Parsed(None, f"the text says that it has no answer: {unknown[0]}")
    if len(found) > 1:
        (before, one), (at, last) = found[-2:]
        if _OR.fullmatch(text[before + len(one.text) : at]) and one.value != last.value:
            return Parsed(None, f"the text states several numbers at once: {one.text}, {last.text}")
    return Parsed(found[-1][1].text, how="the only number" if len(found) == 1 else "the last number")


def number_of(text: str, decimal: str = ".") -> Quantity | None:
    """The number that a reference, or an answer as it was read, consists of."""
    return next((each for _, each in quantities(written(text), decimal)), None)


def same_number(answer: str, reference: str, config: NumericReward) -> bool:
    """Whether the two are the same number, within the tolerance and in the reference's unit."""
    said, wanted = number_of(answer, config.decimal), number_of(reference, config.decimal)
    if said is None or wanted is None:
        return False
    values = [said.value]
    if said.percent != wanted.percent:
        values.append(said.value * 100 if said.percent else said.value / 100)
    if config.units != "ignored" and wanted.unit:
        if not said.unit:
            return config.units == "optional" and any(_close(v, wanted.value, config) for v in values)
        values = [v for value in values if (v := converted(value, said.unit, wanted.unit)) is not None]
    return any(_close(value, wanted.value, config) for value in values)


def _close(value: float, wanted: float, config: NumericReward) -> bool:
    # 1e-12 is rounding of the two, as in 0.1 + 0.2; a tolerance of 0 still means the same number.
    bound = config.tolerance * abs(wanted) if wanted else config.tolerance
    return abs(value - wanted) <= bound + 1e-12 * abs(wanted)
