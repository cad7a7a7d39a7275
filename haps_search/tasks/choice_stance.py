"""How a sentence stands to an option that it names: states it, comes to it, denies it, or leaves it open."""

from __future__ import annotations

import re
from typing import Literal

from haps_search.tasks.choice_words import (
    ANSWER,
    BUT,
    CHOOSE,
    CLOSE_RIGHT,
    CONCEDED,
    IF,
    IS,
    MAYBE,
    MEANWHILE,
    NOT,
    OTHERS,
    REASON,
    RIGHT,
    WEAK,
    WRONG,
)

Stance = Literal["stated", "concluded", "denied", "open"]
"""`concluded` is weaker than `stated`; of what is `open` a text says nothing."""


def stance_to(before: str, after: str, previous: Stance, strict: bool) -> Stance:
    """What the words before and after an option make of it, within its sentence.

    `previous` is the stance to the option named before it, `strict` demands that the words before it touch it.
    """
    led, followed = _led(before, strict), _followed(after)
    supposed = _SUPPOSED.search(before) is not None
    if supposed and followed == "stated":
        followed = "open"  # although A is correct, ...
    if previous == "denied" and led == "open" and not supposed and _CONTRAST.match(before):
        return "stated"
    if led in ("stated", "denied"):
        return led
    if led == "concluded" and _CONDITION.search(_clause_of(after)):
        return "open"  # it would be A only if ...
    return followed if followed != "open" else led


_CONTRAST = re.compile(rf"[\s,)\"']*(?:{BUT}|[;-])", re.IGNORECASE)
# Not the reflexive "se confirma que", and "A is a distractor, while B is correct" states B.
_SUPPOSED = re.compile(
    rf"(?:(?<!\w)(?:even\s+)?(?:(?!se\s+\S+\s+(?:que|che)\s)(?:{IF})|{CONCEDED})|^[\s\"'(]*(?:{MEANWHILE}))"
    r"(?:(?<=[\u3040-\u9fff])\s*|\s+(?:[^\s.,;:!?]+\s+){0,2}[\"'(\[]*)$",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;]\s|、")
_FEW = r"[\s\"'(\[{]*(?:[^\s.,;:!?]+[\s\"'(\[{]+){0,5}"
_TOUCHING = r"[\s\"'(\[{:=-]*"
_NAMED = (
    rf"{_TOUCHING}(?:(?:the|option|choice|letter|letra|lettre|opci[oó]n|buchstabe|la|el|le|il|die|der)\s+)*[\"'(\[]*"
)
_CUE_ANSWER = re.compile(rf"(?:{ANSWER})", re.IGNORECASE)
_LINK = re.compile(rf"(?:{IS})", re.IGNORECASE)
_CUE_CHOOSE = re.compile(rf"(?:{CHOOSE}){_FEW}$", re.IGNORECASE)
_CUE_WEAK = re.compile(rf"(?:{WEAK}){_FEW}$", re.IGNORECASE)
_MAYBE = re.compile(MAYBE, re.IGNORECASE)
_OTHERS = re.compile(rf"(?:{OTHERS})\s+(?:\w+\s+){{0,3}}$", re.IGNORECASE)
_NOT = re.compile(rf"(?:{NOT})", re.IGNORECASE)
_NOT_CLOSE = re.compile(rf"(?:{NOT}){_FEW}$", re.IGNORECASE)
_WRONG_CALLED = re.compile(rf"(?:{WRONG}|{NOT})\s*(?:\w+\s+){{0,1}}$", re.IGNORECASE)
_CALLED_WRONG = re.compile(rf"(?:{WRONG})(?:\s+(?:{ANSWER}))?\s*(?:{IS}){_TOUCHING}$", re.IGNORECASE)
_REASON = re.compile(rf"(?:{REASON})", re.IGNORECASE)
_LONG = 120


def _led(before: str, strict: bool) -> Stance:
    """What the words before an option make of it."""
    before = before[-_LONG:]
    clause = before[[0, *(found.end() for found in _CLAUSE.finditer(before))][-1] :]
    if _CALLED_WRONG.search(clause):
        return "denied"
    for part in dict.fromkeys((clause, before)):
        if cue := _stated(part, clause, strict):
            return cue
    if strict:
        return "open"
    if _NOT_CLOSE.search(clause):
        return "denied"
    return "concluded" if _CUE_WEAK.search(clause) and not _MAYBE.search(clause) else "open"


def _stated(part: str, clause: str, strict: bool) -> Stance | None:
    """By a verb of choosing, or by a name for answers and a link such as "is"; None by neither."""
    if (chosen := _CUE_CHOOSE.search(part)) and not _OTHERS.search(part[: chosen.start()]):
        negated = _NOT.search(part, chosen.start()) or _WRONG_CALLED.search(part[: chosen.start()])
        return "denied" if negated else "stated"
    cues = list(_CUE_ANSWER.finditer(part))
    for cue in reversed(cues):
        gap = part[cue.end() :]
        links = list(_LINK.finditer(gap))
        if not links and not (_bare_cue(part, cue) and not gap.strip()):
            continue
        rest = gap[links[-1].end() :] if links else gap
        if not re.fullmatch(_NAMED if strict else _FEW, rest, re.IGNORECASE) or _REASON.search(rest):
            continue
        negated = _NOT.search(gap if len(gap) <= len(clause) else clause) or _WRONG_CALLED.search(part[: cue.start()])
        return "denied" if negated else "stated"
    return None


def _bare_cue(part: str, cue: re.Match[str]) -> bool:
    """ "Answer B" and 答案B state; "option B" only names."""
    first = not part[: cue.start()].strip() and cue[0].casefold() in _NAMES
    return first or not cue[0].isascii()


_NAMES = frozenset({"answer", "antwort", "ans", "solution", "lösung", "réponse", "respuesta", "risposta", "resposta"})
_BREAK = re.compile(rf",(?!\s*(?:which|who|that|qui|que|der|die|das|was|что)\b)|[;\n]|{REASON}|{BUT}", re.IGNORECASE)
_CONDITION = re.compile(rf"(?:{IF})", re.IGNORECASE)
_CLOSELY = re.compile(rf"[\s\"')\]]*(?:{CLOSE_RIGHT})", re.IGNORECASE)
_POLE = re.compile(rf"(?P<right>{RIGHT})|(?P<wrong>{WRONG})|(?P<no>{NOT})", re.IGNORECASE)
_NEAR = 45


def _followed(after: str) -> Stance:
    """What the words after an option make of it: its predicate, within the clause."""
    predicate = _clause_of(after)
    if condition := _CONDITION.search(predicate):
        predicate = predicate[: condition.start()] if _NOT.search(predicate[: condition.start()]) else ""
    poles = [found for found in _POLE.finditer(predicate) if found.start() < _NEAR or found["no"] is None]
    if not poles or poles[0].start() >= _NEAR:
        return "stated" if _CLOSELY.match(after) else "open"
    negated = False
    stance: Stance = "open"
    for pole in poles:
        if pole["no"]:
            negated, stance = True, "denied"
        elif pole["right"]:
            stance = "denied" if negated else "stated"
        else:
            stance = "open" if negated else "denied"
    return stance


def _clause_of(after: str) -> str:
    cut = _BREAK.search(after)
    return (after[: cut.start()] if cut else after)[:_LONG]
