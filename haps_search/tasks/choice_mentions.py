"""Where a text names options: by label, by number ("option 2", "the second option") or in their own words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from haps_search.tasks.choice_labels import LETTERS
from haps_search.tasks.choice_words import ALSO, BARE_NOUNS, OPTION, ORDINALS, PREDICATES, REASON
from haps_search.tasks.markup import plain
from haps_search.tasks.normalise import SPACELESS, fold

Form = Literal["label", "numbered", "text"]


@dataclass(frozen=True, slots=True)
class Mention:
    """`text[start:end]` names an option, counted from 0; one beyond the last is a letter that no option has.

    `loose`: it counts only where the words before it say so, as a small letter does. `lead`: it begins a line and ends
    there, or punctuation follows. `full`: the option's own words follow its label.
    """

    start: int
    end: int
    option: int
    form: Form
    loose: bool = False
    lead: bool = False
    full: bool = False


def mentions(text: str, options: tuple[str, ...], labels: tuple[str, ...]) -> list[Mention]:
    """All mentions in order, none overlapping; a label takes the option's own words after it along."""
    wordings = _wordings(options)
    kept: list[Mention] = []
    labelled = sorted(
        (*_bracketed(text, labels), *_labelled(text, labels), *_numbered(text, options, labels)), key=_key
    )
    for one in labelled:
        if not kept or one.start >= kept[-1].end:
            kept.append(_with_words(text, one, wordings))
    taken = [(one.start, one.end) for one in kept]
    worded = [one for one in _worded(text, options) if not any(a < one.end and one.start < b for a, b in taken)]
    # An option's words may hold a letter of their own ("Vitamin B"): the longer one counts.
    wide = [one for one in _worded(text, options) if one not in worded]
    kept = [one for one in kept if not any(w.start <= one.start and one.end < w.end and not one.full for w in wide)]
    worded += [one for one in wide if not any(a.start < one.end and one.start < a.end for a in kept)]
    return sorted((*kept, *worded), key=_key)


def only_mentions(text: str, options: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    """Whether a text consists of options and nothing else."""
    found = mentions(text, options, labels)
    rest = text
    for one in reversed(found):
        rest = f"{rest[: one.start]} {rest[one.end :]}"
    return bool(found) and re.fullmatch(rf"(?:[\s\W]|{ALSO})*", rest, re.IGNORECASE) is not None


def sentence_ends(text: str, found: Sequence[Mention]) -> Iterator[int]:
    """Where sentences end, not within an option's own words."""
    spans = [(one.start, one.end) for one in found]
    for end in _END.finditer(text):
        if not any(start < end.end() < stop for start, stop in spans):
            yield end.end()


_END = re.compile(r"[.!?](?=[\s\"')\]]|$)|[.!?](?=[A-Z\u4e00-\u9fff])|[。]|;\s|\n")


def _key(one: Mention) -> tuple[int, int]:
    return one.start, -one.end


@lru_cache(maxsize=256)
def _labels(labels: tuple[str, ...]) -> tuple[bool, str]:
    """Whether they are single letters, and what matches one of them or, for letters, any capital."""
    letters = all(len(label) == 1 and label.isalpha() and label.isascii() for label in labels)
    return letters, "[A-Z]" if letters else "|".join(sorted(map(re.escape, labels), key=len, reverse=True))


def _index(label: str, labels: tuple[str, ...]) -> int:
    """The option of a label, or a number beyond the last one."""
    folded = [each.casefold() for each in labels]
    wanted = label.casefold()
    if wanted in folded:
        return folded.index(wanted)
    return max(len(labels), LETTERS.find(label.upper()))


def _bracketed(text: str, labels: tuple[str, ...]) -> Iterator[Mention]:
    """(B), [b], 【B】."""
    letters, pattern = _labels(labels)
    for found in re.finditer(rf"(?<![\w\\])[(\[{{【]\s*({pattern})\s*[)\]}}】]", text, re.IGNORECASE):
        option = _index(found[1], labels)
        if option < len(labels) or (letters and found[1].isupper()):
            yield _placed(text, found.start(), found.end(), option, loose=option >= len(labels))


_HOMOGLYPHS = dict(zip("АВСЕΑΒΕ", "ABCEABE", strict=True))
_AFTER_LOOSE = re.compile(rf"\s*(?:[.,;:!?)\]\"'|]|$|\n)|\s+(?:{REASON})|\s+-|[{SPACELESS}]", re.IGNORECASE)
_STARTS = re.compile(r"(?:^|[.!?:\n]\s*[\"'(]?|\n[ \t]*)$")


_NUMBERED = rf"(?:{OPTION}|options?|n[ro°]\.?|number|nummer)\s*#?\s*"
_NOUN = re.compile(rf"(?<![a-z]){_NUMBERED}$", re.IGNORECASE)


def _labelled(text: str, labels: tuple[str, ...]) -> Iterator[Mention]:
    letters, pattern = _labels(labels)
    if letters:
        yield from _lettered(text, labels)
        return
    for found in re.finditer(rf"(?<![\w.,+-])(?:{pattern})(?![\w%]|[.,]\d|[+-]\w)", text, re.IGNORECASE):
        number = found[0].isdigit() and not _NOUN.search(text[max(0, found.start() - 24) : found.start()])
        one = _placed(text, found.start(), found.end(), _index(found[0], labels), loose=number)
        yield replace(one, loose=one.loose and not one.lead)


def _lettered(text: str, labels: tuple[str, ...]) -> Iterator[Mention]:
    for found in re.finditer(
        r"(?<![A-Za-z0-9_.&°À-ɏ-])(?<!\w')[A-Za-zАВСЕΑΒΕ](?![A-Za-z0-9_À-ɏа-яё]|['.]\w|[+#&-]\w|\+\+|#)", text
    ):
        letter = _HOMOGLYPHS.get(found[0], found[0])
        option, after = _index(letter, labels), _AFTER_LOOSE.match(text, found.end())
        small = letter.islower() or found[0] in _HOMOGLYPHS or option >= len(labels)
        if small and not after:
            continue
        if not small and _is_word(text, found.start(), found.end(), letter):
            continue
        one = _placed(text, found.start(), found.end(), option, loose=small)
        leads = one.lead and option < len(labels) and _LEADS_SMALL.match(text, found.end())
        yield replace(one, loose=small and not leads)


_LEADS_SMALL = re.compile(r"[.):](?=\s|$)|[\"'\s]*$")


def _is_word(text: str, start: int, end: int, letter: str) -> bool:
    """Whether a capital is an article or a pronoun ("A city", "I think"), or part of a name ("Vitamin A")."""
    if BARE_NOUNS.search(text[max(0, start - 24) : start]):
        return True
    after = re.match(r"[ \t]+([\"'(]?[^\W\d]+)", text[end : end + 40])
    if letter not in "AIEOUY" or after is None:
        return False
    if re.match(rf"\s+(?:{PREDICATES})", text[end : end + 40], re.IGNORECASE):
        return letter == "I"
    return bool(_STARTS.search(text[max(0, start - 8) : start])) or letter == "I" or after[1][:1].isupper()


def _numbered(text: str, options: tuple[str, ...], labels: tuple[str, ...]) -> Iterator[Mention]:
    """ "Option 2", unless that is a label or an option's own text, and "the second option"."""
    known = {fold(each).strip() for each in (*options, *labels)}
    for found in re.finditer(rf"{_NUMBERED}(\d{{1,2}})(?![\w]|[.,]\d)", text, re.IGNORECASE):
        if 1 <= int(found[1]) <= len(options) and found[1] not in known:
            yield _placed(text, found.start(), found.end(), int(found[1]) - 1, form="numbered")
    for place, ordinal in enumerate(ORDINALS[: len(options)]):
        for found in re.finditer(rf"(?<!\w)(?:{ordinal})\s*(?:{OPTION})(?![a-z])", text, re.IGNORECASE):
            yield _placed(text, found.start(), found.end(), place, form="numbered")


def _placed(text: str, start: int, end: int, option: int, form: Form = "label", loose: bool = False) -> Mention:
    line = text[text.rfind("\n", 0, start) + 1 : start]
    begins = not line.strip(" \t\"'([{*-")
    lead = begins and re.match(rf"[\s\"']*(?:[.):\],;!-]|$|\n|\s(?:{REASON}))", text[end : end + 40], re.I) is not None
    closed = text[end - 1] in ")]}】"
    return Mention(start, end, option, form, loose, lead or (begins and closed))


_EDGES = " \t\n.,;:!?\"'"
_LEADING_ARTICLE = re.compile(r"(?:the|an?|der|die|das|ein|eine|le|la|les|un|une|el|los|las|una|il|lo|gli|o|os|as|um|uma)\s+", re.I)  # fmt: skip  # noqa: E501


@lru_cache(maxsize=256)
def _wordings(options: tuple[str, ...]) -> tuple[re.Pattern[str] | None, ...]:
    return tuple(map(_wording, options))


def _wording(option: str) -> re.Pattern[str] | None:
    """What matches an option's words, whatever their case and spacing; None where it has none."""
    said = fold(plain(option)).strip(_EDGES)
    said = _LEADING_ARTICLE.sub("", said, count=1) if _LEADING_ARTICLE.match(said) else said
    parts = [re.escape(part) for part in said.split()]
    if not parts:
        return None
    numeric = said[0].isdigit() or (said[0] in "+-." and len(said) > 1)
    left = r"(?<![\w.,+-])" if numeric else r"(?<!\w)" if said[0].isalnum() and not _spaceless(said[0]) else ""
    right = r"(?!\w|[.,]\d|%)" if said[-1].isdigit() else r"(?!\w)" if said[-1].isalnum() and not _spaceless(said[-1]) else ""  # fmt: skip  # noqa: E501
    joint = r"\s*" if _spaceless(said[0]) else r"\s+"
    return re.compile(f"{left}{joint.join(parts)}{right}", re.IGNORECASE)


def _spaceless(c: str) -> bool:
    return re.match(f"[{SPACELESS}]", c) is not None


def _worded(text: str, options: tuple[str, ...]) -> list[Mention]:
    """Options in their own words. A part of a longer one ("York" in "New York") is none."""
    found = [
        _placed(text, match.start(), match.end(), option, form="text")
        for option, pattern in enumerate(_wordings(options))
        if pattern is not None
        for match in pattern.finditer(text)
    ]
    kept: list[Mention] = []
    for one in sorted(found, key=_key):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def _with_words(text: str, one: Mention, wordings: tuple[re.Pattern[str] | None, ...]) -> Mention:
    """A label with its option's own words after it: "B. banana", "B (banana)"."""
    pattern = wordings[one.option] if one.option < len(wordings) else None
    if pattern is None:
        return one
    gap = re.match(r"[\s.):\],\"'=-]*\(?(?:the |an? |der |die |das |la |le |el )?", text[one.end :], re.IGNORECASE)
    words = pattern.match(text, one.end + gap.end()) if gap else None
    if words is None:
        return one
    closed = words.end() + (text[words.end() : words.end() + 1] == ")")
    return replace(one, end=closed, full=True, loose=False)
