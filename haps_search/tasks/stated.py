"""Where a chat answer states its answer, whatever kind of answer that is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from haps_search.tasks.choice_words import IS, NAME, NOT
from haps_search.tasks.markup import boxes, plain, spoken
from haps_search.types import Parsed


@dataclass(frozen=True, slots=True)
class Stated:
    """`text[start:end]` holds an answer, its `content`, as it was written."""

    start: int
    end: int
    content: str
    how: str


_TAG = re.compile(rf"<(?P<tag>(?:final[_ -]?)?(?:{NAME}|choice|option|response|solution|output|result))\b[^<>]*>(?P<content>.*?)(?:</(?P=tag)\s*>|$)", re.IGNORECASE | re.DOTALL)  # fmt: skip  # noqa: E501
_FIELD = re.compile(rf"[\"'][\w ]{{0,20}}(?:{NAME}|_answer)[\"']\s*:\s*(?:\"(?P<content>(?:[^\"\\\n]|\\.)*)\"|\[\s*(?P<list>[^\[\]\s][^\[\]]*)\]|(?P<bare>[^\s,}}\[\]\"]+))", re.IGNORECASE)  # fmt: skip  # noqa: E501
_HASHES = re.compile(r"^#{4}[ \t]*(?P<content>[^#\s].*)$", re.MULTILINE)
_DOUBLE = re.compile(r"\[\[\s*(?P<content>[^\[\]\n]{1,40})\s*\]\]")


def marked(text: str) -> list[Stated]:
    """What stands in boxes, answer tags, JSON fields, after `####` (GSM8K) or in `[[ ]]`, in order, none in another."""
    found = [Stated(start, end, content, "boxed") for start, end, content in boxes(text)]
    for pattern in (_TAG, _FIELD, _HASHES, _DOUBLE):
        for match in pattern.finditer(text):
            named = match.groupdict()
            content = named["content"] if named["content"] is not None else named.get("bare") or ""
            if named.get("list"):
                content = _items(named["list"])
            found.append(Stated(match.start(), match.end(), content, "stated"))
    kept: list[Stated] = []
    for one in sorted(found, key=lambda each: (each.start, -each.end)):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def _items(listed: str) -> str:
    """A list of JSON as one text: several items are several at once to whoever reads an option or a number."""
    try:
        items = [str(item) for item in json.loads(f"[{listed}]")]
    except ValueError:
        items = [item.strip(" \t\n\"'") for item in listed.split(",")]
    return " and ".join(item for item in items if item)


_CUE = re.compile(rf"(?:{NAME})(?P<gap>[^.!?\n,;]{{0,80}}?)(?:{IS})[\s:]*(?=(?P<said>[^\n]+))", re.IGNORECASE)
_JOINED = re.compile(r"(?<=[:=])[ \t]*\n\s*")
# Not after initials and short titles: J. K. Rowling, St. Petersburg. "Inc." and "No." end a sentence, too.
_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:St|Dr|Mr|Ms|Jr|Sr|vs|Mt|Ft|Lt))(?<!\b(?:Mrs|Sgt|Gen|Col|Rev|Gov|Sen|Rep))"
    r"(?<!\b(?:Prof|Capt))(?<!\b[Aa]pprox)(?<!\b(?:No|Co))(?<!\b(?:Inc|Ltd))(?<!\b(?:Bros|Corp))[.!?](?=\s|$)"
    r"|(?:(?<=\bCo)|(?<=\b(?:Inc|Ltd))|(?<=\b(?:Bros|Corp)))"
    r"[.!?](?=\s*$|\s+(?:It|The|This|That|These|They|He|She|We|In|A|An|As|Its|His|Her)\b)"
    r"|(?<=\bNo)(?:[!?]|\.(?!\s*\d))(?=\s|$)"
    r"|[\u3002\uff01\uff1f]"
)
_NONE = re.compile(r"(?:\b(?:no|any|keine?|aucune|ninguna|nessuna|nenhuma)|没有|無)\s*$", re.IGNORECASE)


def cued(text: str) -> Iterator[str]:
    """What follows "the answer is", to the end of its sentence; nothing where that is denied."""
    shown = _JOINED.sub(" ", plain(text))
    for found in _CUE.finditer(shown):
        said = _END.split(found["said"], maxsplit=1)[0].strip()
        if (
            said
            and not _NONE.search(shown[: found.start()])
            and not re.match(rf"(?:{NOT})(?!\w)\s", said, re.IGNORECASE)
        ):
            yield said


def read_stated(text: str) -> Parsed:
    """The last answer that a text states, or the whole text where it states none."""
    said = spoken(text)
    if not said:
        return nothing(text)
    found = [(plain(one.content).strip(), one.how) for one in marked(said)] or [(each, "stated") for each in cued(said)]
    found = [(content, how) for content, how in found if content]
    if not found:
        return Parsed(said, how="the whole text")
    every = tuple(dict.fromkeys(content for content, _ in found))
    return Parsed(found[-1][0], stated=every if len({each.casefold() for each in every}) > 1 else (), how=found[-1][1])


def nothing(text: str) -> Parsed:
    """A text of which nothing is left."""
    return Parsed(None, "nothing is said after the thinking" if text.strip() else "the text is empty")
