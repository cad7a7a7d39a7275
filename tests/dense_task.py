"""A task whose reward is dense, so that untrained candidates earn advantage: the share of lower-case letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn


class DenseTask:
    name = "dense"
    description = "Say letters."
    roles = (Role("answerer", "says letters"),)

    def questions(self, split: Split) -> Sequence[Question]:
        return [Question(f"{split}-{i}", f"say {'abc' * (i % 3)}{i}", "") for i in range(12)]

    def turn(self, episode: Episode) -> Turn | None:
        if episode.completions:
            return None
        return Turn("answerer", (Message("user", episode.question.text),))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        return Parsed(text)

    def reward(self, episode: Episode) -> float:
        return letters(episode.question, episode.answer or "")

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return {}


def letters(question: Question, answer: str) -> float:
    """Also the user function of the `qa` task in tests."""
    return sum(c.islower() for c in answer) / max(len(answer), 1)
