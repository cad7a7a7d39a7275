"""Teacher and student with a dense reward, so that untrained candidates earn advantage in several completions each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from haps_search.tasks.hotpotqa.task import HotpotqaTask
from haps_search.types import Episode, Question, Split

TINY = str(Path(__file__).parent / "assets" / "hotpotqa_tiny.jsonl")
DIALOGUE: dict[str, Any] = {
    "type": "hotpotqa",
    "train": TINY,
    "validation": TINY,
    "max_student_turns": 2,
    "prompts": {"student": {"prompt": "{dialogue}\n{question}"}, "teacher": {"prompt": "{question} {dialogue}"}},
}
"""Prompts short enough for candidates that read 256 characters."""


class DialogueTask(HotpotqaTask):
    """The share of lower-case letters in all that was said, to questions cut short."""

    def questions(self, split: Split) -> Sequence[Question]:
        return [replace(q, text=q.text[:12]) for q in super().questions(split)]

    def reward(self, episode: Episode) -> float:
        said = "".join(u.sampled.text for u in episode.completions)
        return sum(c.islower() for c in said) / max(len(said), 1)
