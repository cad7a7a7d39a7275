"""What student and teacher can say, and how a text is read.

Student: `Search[words]` or `Finish[answer]`. Teacher: `Continue` or `Rethink`. Either may add `Summary: ...`.
Letter case does not matter. A step at the beginning of a line (a one-word label such as `Action:` may stand before
it) is preferred to one within a line, and the first to later ones: models like to go on with a dialogue of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from haps_search.tasks.passages import Passages
from haps_search.types import Completion

Step = Literal["search", "finish", "continue", "rethink"]
STUDENT, TEACHER = "student", "teacher"

_LINE = r"^\W*(?:(?!summary\b)\w+[^\w\n\[]*:\W*)?"
# Brackets may be nested once, as in Finish[Alien [1979]].
_BRACKETED = r"(?P<step>search|finish)\s*\[(?P<argument>(?:[^\[\]]|\[[^\[\]]*\])*)\]"
_VERDICT = r"(?P<step>continue|rethink)\b"
_FLAGS = re.IGNORECASE | re.MULTILINE
_ACTION_LINE, _ACTION = re.compile(_LINE + _BRACKETED, _FLAGS), re.compile(rf"\b{_BRACKETED}", _FLAGS)
# "Continue or Rethink" repeats what was asked, and is no verdict.
_UNDECIDED = r"(?!\W*or\W*(?:continue|rethink)\b)"
_VERDICT_LINE = re.compile(_LINE + _VERDICT + _UNDECIDED, _FLAGS)
_VERDICT_WORD = re.compile(rf"\b{_VERDICT}", _FLAGS)
_OPENED = re.compile(r"\b(?:search|finish)\s*\[", _FLAGS)
_SUMMARY = re.compile(r"^\W*summary\b[^\w\n]*?:[ \t*]*", _FLAGS)


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as it was read.

    `step` None comes with `failure`, the reason. `argument` is the query or the answer, "" for a verdict.
    `summary` is "" where there is none, `said` the text without it.
    """

    step: Step | None
    argument: str
    summary: str
    said: str
    failure: str | None = None


def read(role: str, text: str) -> Reading:
    """A text of the student or the teacher."""
    if not text.strip():
        return Reading(None, "", "", "", "the text is empty")
    found = _action(text) if role == STUDENT else _verdict(text)
    if isinstance(found, str):
        summary, said = _summary(text, None)
        return Reading(None, "", summary, said, found)
    summary, said = _summary(text, found)
    argument = " ".join(found["argument"].split()) if role == STUDENT else ""
    return Reading(_STEPS[found["step"].lower()], argument, summary, said)


_STEPS: dict[str, Step] = {"search": "search", "finish": "finish", "continue": "continue", "rethink": "rethink"}


def _action(text: str) -> re.Match[str] | str:
    found = _ACTION_LINE.search(text) or _ACTION.search(text)
    if found is None:
        opened = _OPENED.search(text)
        return f"{opened[0]} is not closed" if opened else "it has neither Search[...] nor Finish[...]"
    return found if found["argument"].strip() else f"{found['step']}[] is empty"


def _verdict(text: str) -> re.Match[str] | str:
    found = _VERDICT_LINE.search(text)
    if found is not None:
        return found
    summary = _SUMMARY.search(text)
    words = list(_VERDICT_WORD.finditer(text, 0, summary.start() if summary else len(text)))
    if len({word["step"].lower() for word in words}) > 1:
        return "it has both Continue and Rethink, and begins no line with either"
    return words[0] if words else "it has neither Continue nor Rethink"


def _summary(text: str, step: re.Match[str] | None) -> tuple[str, str]:
    """The summary, up to the step where that comes later, and the text without it."""
    label = _SUMMARY.search(text)
    if label is None:
        return "", text.strip()
    end = step.start() if step is not None and step.start() >= label.end() else len(text)
    rest = f"{text[: label.start()].strip()}\n{text[end:].strip()}"
    return " ".join(text[label.end() : end].split()), rest.strip()


Find = Callable[[str], Passages]
"""Query -> passages of the question at hand."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How many searches and turns of the student an episode has."""

    search_budget: int
    student_turns: int


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Student and teacher in turn, the student first.

    `found` holds the passages of each search that was carried out. `last` is what each role said last, in the
    order they spoke. `refused` says that the student's last step was a search beyond the budget.
    """

    rules: Rules
    turns: int = 0
    found: tuple[Passages, ...] = ()
    summaries: Mapping[str, str] = field(default_factory=dict)
    last: Mapping[str, Reading] = field(default_factory=dict)
    refused: bool = False

    @property
    def searches_left(self) -> int:
        return self.rules.search_budget - len(self.found)

    @property
    def turns_left(self) -> int:
        """Turns of the student."""
        return self.rules.student_turns - self.turns

    @property
    def next_role(self) -> str | None:
        """None once an answer was accepted, or the student's last turn is over: no verdict could change anything."""
        if not self.last:
            return STUDENT
        spoke = list(self.last)[-1]
        if spoke == STUDENT:
            return TEACHER if self.turns_left else None
        accepted = self.last[STUDENT].step == "finish" and self.last[TEACHER].step == "continue"
        return None if accepted else STUDENT


def follow(completions: Iterable[Completion], rules: Rules, find: Find) -> Dialogue:
    """The dialogue after these completions."""
    state = Dialogue(rules)
    for completion in completions:
        state = _heard(state, completion.role, read(completion.role, completion.sampled.text), find)
    return state


def _heard(state: Dialogue, role: str, reading: Reading, find: Find) -> Dialogue:
    others = {name: said for name, said in state.last.items() if name != role}
    summaries = {**state.summaries, role: reading.summary} if reading.summary else state.summaries
    state = replace(state, last={**others, role: reading}, summaries=summaries)
    if role != STUDENT:
        return state
    refused = reading.step == "search" and not state.searches_left
    state = replace(state, turns=state.turns + 1, refused=refused)
    if reading.step == "search" and not refused:
        return replace(state, found=(*state.found, find(reading.argument)))
    return state
