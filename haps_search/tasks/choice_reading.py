"""Which option a chat answer states.

Thinking is cut, markup seen through. Then, in this order: the answer that is stated ("the answer is B", "B is correct",
a box, an answer tag; the last one where there are several), what the text comes to ("so C"), a label that stands alone,
and an option's own words. What is denied ("not A but B", "A: no") is not stated, and an answer that names two options
at once ("A or B") states none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from haps_search.tasks.choice_labels import labels_of
from haps_search.tasks.choice_mentions import Mention, mentions, only_mentions, sentence_ends
from haps_search.tasks.choice_stance import Stance, stance_to
from haps_search.tasks.choice_words import ALSO, ANSWER
from haps_search.tasks.markup import plain, spoken
from haps_search.tasks.normalise import fold
from haps_search.tasks.stated import marked, nothing
from haps_search.types import Parsed

_BOXED = "\ue000"


def read_choice(text: str, options: Sequence[str], labels: Sequence[str] = ()) -> Parsed:
    """The label of the option that a text states, or the reason why it states none.

    `Parsed.stated` has all of them, where it states several one after the other. `labels` are what the prompt called
    the options; without any, A, B, C.
    """
    names = tuple(labels) or labels_of(len(options))
    said = spoken(text)
    if not said:
        return nothing(text)
    shown = _lines(fold(plain(_opened(said, options, names))))
    found = mentions(shown, tuple(options), names)
    groups = list(_groups(shown, found))
    for stance in ("stated", "concluded"):
        if chosen := [group for group in groups if group.stance == stance]:
            return _last(chosen, names)
    return _alone(shown, groups, names)


def _opened(text: str, options: Sequence[str], names: tuple[str, ...]) -> str:
    """Boxes, answer tags and their like as sentences that say so; boxes that hold no option as they are."""
    for one in reversed(marked(text)):
        if one.how != "boxed" or _is_option(one.content, options, names):
            cue = f"answer {_BOXED}" if one.how == "boxed" else "answer"
            text = f"{text[: one.start]}\n{cue}: {one.content}\n{text[one.end :]}"
    return text


def _is_option(content: str, options: Sequence[str], names: tuple[str, ...]) -> bool:
    return only_mentions(fold(plain(content)), tuple(options), names)


_HEADING = re.compile(
    rf"^[ \t]*#*[ \t]*(?P<name>(?:\w+[ \t]+){{0,3}}(?:{ANSWER}))[ \t]*$", re.IGNORECASE | re.MULTILINE
)
_CARRIED = re.compile(r"(?<=[:=])[ \t]*\n\s*|(?<=\bis)[ \t]*\n\s*|(?<=\bist)[ \t]*\n\s*")
_SPACES = re.compile(r"[ \t]{2,}")
_HASHES = re.compile(r"^[ \t]*#+[ \t]*", re.MULTILINE)


def _lines(text: str) -> str:
    """A heading or a colon goes on in the next line that says something."""
    text = _SPACES.sub(" ", text)
    return _CARRIED.sub(" ", _HASHES.sub("", _HEADING.sub(r"\g<name>:", text)))


@dataclass(frozen=True, slots=True)
class _Group:
    """Options that are named together ("A or B"), and how the text stands to them."""

    members: tuple[Mention, ...]
    stance: Stance
    boxed: bool = False

    @property
    def options(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(member.option for member in self.members))


def _groups(text: str, found: Sequence[Mention]) -> Iterator[_Group]:
    """The groups in order, mentions that are too loose to count left out."""
    ends = [*sentence_ends(text, found), len(text)]
    at, begin = 0, 0
    for end in ends:
        here = []
        while at < len(found) and found[at].start < end:
            here.append(found[at])
            at += 1
        if here:
            yield from _sentence(text, begin, end, here)
        begin = end


def _sentence(text: str, begin: int, end: int, here: Sequence[Mention]) -> Iterator[_Group]:
    asks = text[begin:end].rstrip().endswith("?")
    previous: Stance = "open"
    left = begin
    parts = list(_together(text, here))
    for place, part in enumerate(parts):
        right = parts[place + 1][0].start if place + 1 < len(parts) else end
        before, after = text[left : part[0].start], text[part[-1].end : right]
        stance = "open" if asks else stance_to(before, after, previous, strict=part[0].loose)
        if stance != "open" or not any(member.loose for member in part):
            yield _Group(tuple(part), stance, _BOXED in before)
        previous, left = stance, part[-1].end


def _together(text: str, here: Sequence[Mention]) -> Iterator[list[Mention]]:
    part = [here[0]]
    for one, following in pairwise(here):
        between = text[one.end : following.start]
        if _JOINED.fullmatch(between) and not (following.loose and not one.loose and following.option != one.option):
            part.append(following)
        else:
            yield part
            part = [following]
    yield part


_JOINED = re.compile(rf"(?:\s|[()\"']|{ALSO})*", re.IGNORECASE)


def _last(chosen: Sequence[_Group], names: tuple[str, ...]) -> Parsed:
    """The last group that is stated, if it is one option."""
    options = chosen[-1].options
    every = tuple(dict.fromkeys(name for group in chosen for option in group.options if (name := _name(option, names))))
    how = "boxed" if chosen[-1].boxed else chosen[-1].stance
    if len(options) > 1 and not _explained(chosen[-1]):
        return Parsed(None, f"the text states several options at once: {', '.join(_names(options, names))}")
    return _parsed(options[0], names, how, every if len(every) > 1 else ())


def _explained(group: _Group) -> bool:
    """ "B (cherry)": a label and the words of another option. The label counts."""
    first, *others = group.members
    return first.form != "text" and len(others) == 1 and others[0].form == "text"


def _alone(text: str, groups: Sequence[_Group], names: tuple[str, ...]) -> Parsed:
    """The option of a text that states none: the one it begins or ends with, or else the only one it names."""
    denied = {option for group in groups if group.stance == "denied" for option in group.options}
    listed = _listed(groups)
    loose = [group for group in groups if group.stance == "open" and group not in listed]
    leads = {one.option for group in loose for one in group.members if one.lead and not one.full}
    placed = len(groups) > 1 and len(leads) < 2
    if placed and (found := _begins(text, groups[0], loose) or _ends(text, groups[-1], loose)):
        return _parsed(found.option, names, _HOW[found.form], ())
    left = [member for group in loose for member in group.members if member.option not in denied and not member.loose]
    for form in ("label", "text"):
        options = dict.fromkeys(member.option for member in left if (member.form == "text") == (form == "text"))
        if len(options) > 1:
            return Parsed(None, f"the text names several options: {', '.join(_names(tuple(options), names))}")
        if options:
            return _parsed(next(iter(options)), names, _HOW[form], ())
    if denied or listed:
        return Parsed(None, "the text states none of the options that it names")
    return Parsed(None, f"the text names none of the options {names[0]} to {names[-1]}")


_HOW = {"label": "lone label", "numbered": "lone label", "text": "option's words"}


def _listed(groups: Sequence[_Group]) -> list[_Group]:
    """Labels with their own words at the beginning of lines, two or more: the options are repeated, none is meant."""
    found = [g for g in groups if g.stance == "open" and all(member.full and member.lead for member in g.members)]
    return found if len({option for group in found for option in group.options}) > 1 else []


def _begins(text: str, first: _Group, loose: Sequence[_Group]) -> Mention | None:
    """The option that the text begins with, set off from what follows: "B, because A ..."."""
    one = first.members[0]
    alone = first in loose and len(first.options) == 1 and one.lead
    return one if alone and not text[: one.start].strip(" \t\n\"'([{-") else None


def _ends(text: str, last: _Group, loose: Sequence[_Group]) -> Mention | None:
    """The option that the last of several lines consists of."""
    said = text.rstrip()
    line = said[said.rfind("\n") + 1 :] if "\n" in said else ""
    one = last.members[-1]
    alone = last in loose and len(last.options) == 1 and last.members[0].start >= len(said) - len(line)
    return one if alone and len(line.strip(" \t\"'()[]{}.:-")) <= one.end - last.members[0].start else None


def _parsed(option: int, names: tuple[str, ...], how: str, stated: tuple[str, ...]) -> Parsed:
    if option >= len(names):
        return Parsed(None, f"the text names {_name(option, names)}, and the options are {names[0]} to {names[-1]}")
    return Parsed(names[option], stated=stated, how=how)


def _name(option: int, names: tuple[str, ...]) -> str:
    return names[option] if option < len(names) else labels_of(option + 1)[option]


def _names(options: Sequence[int], names: tuple[str, ...]) -> list[str]:
    return [_name(option, names) for option in sorted(options)]
