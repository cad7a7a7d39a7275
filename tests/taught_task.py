"""A task with references, one or several, whose questions the tiny tokenizer can write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from haps_search.tasks.outcomes import OutcomeRow, write_outcomes
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn


class TaughtTask:
    name = "taught"
    description = "Say what is asked for."
    roles = (Role("answerer", "says it"),)

    def questions(self, split: Split) -> Sequence[Question]:
        others = ((), ("b",), (), ("no", "zz"))
        return [
            Question(f"{split}-{i}", f"{split} {'ab' * (i % 5)}{i}", "abc"[i % 3] * (1 + i % 2), "", {}, others[i % 4])
            for i in range(10)
        ]

    def turn(self, episode: Episode) -> Turn | None:
        if episode.completions:
            return None
        return Turn("answerer", (Message("user", episode.question.text),))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        return Parsed(text) if text else Parsed(None, "nothing was said")

    def reward(self, episode: Episode) -> float:
        return float(episode.answer in episode.question.references)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return {}


def said_table(path: Path, said: Sequence[tuple[Question, str, str, float]]) -> Path:
    """A collected table of one role: (question, candidate, completion, reward), each a sample of its own."""
    rows = [
        OutcomeRow(asked, "train", "taught", (name,), sample, reward, 3, len(text), 0.0, text, None)
        for sample, (asked, name, text, reward) in enumerate(said)
    ]
    write_outcomes(path, rows)
    return path
