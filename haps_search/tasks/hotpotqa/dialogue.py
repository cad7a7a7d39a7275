"""Where a dialogue stands: a function of its completions alone, worked out anew at every turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from haps_search.tasks.hotpotqa.grammar import STUDENT, TEACHER, Reading, read
from haps_search.tasks.retrieval import Passages
from haps_search.types import Completion

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
        state = _heard(state, completion.role, read(completion.role, completion.response.text), find)
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
