"""The routing prompt: what the router reads before it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from haps_search.types import CandidateCard, Question, Role


@dataclass(frozen=True, slots=True)
class RoutingPrompt:
    """Task description, role definitions, candidate list and question (paper, section on the high level)."""

    form: Literal["question", "full"]
    task: str
    roles: tuple[Role, ...]
    cards: tuple[CandidateCard, ...]

    @property
    def stem(self) -> str:
        """What stands before every question."""
        if self.form == "question":
            return ""
        roles = "\n".join(f"- {r.name}: {r.description}" for r in self.roles)
        cards = "\n".join(f"- {c.name}: {c.description}" for c in self.cards)
        return f"Task: {self.task}\nRoles:\n{roles}\nCandidates:\n{cards}\nQuestion: "

    def render(self, questions: Sequence[Question]) -> list[str]:
        return [self.stem + q.text for q in questions]

    def without_content(self) -> list[str]:
        """Prompts whose question asks nothing (Zhao et al., ICML 2021)."""
        return self.render([Question("", text, "") for text in ("N/A", "[MASK]", "")])
