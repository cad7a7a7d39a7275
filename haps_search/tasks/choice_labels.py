"""What the options of a question are called, and which of them a reference means."""

from __future__ import annotations

import string
from collections.abc import Sequence

from haps_search.config import rewards as config
from haps_search.tasks.overlap import exact_match
from haps_search.tasks.v1_choices import choice_letter_v1
from haps_search.types import Question

LETTERS = string.ascii_uppercase


def labels_of(count: int) -> tuple[str, ...]:
    """A, B, C."""
    return tuple(LETTERS[:count])


def labels_for(question: Question, reward: config.Reward) -> tuple[str, ...]:
    """What the options of a question are called: by its own `labels`, or as the reward says."""
    own: Sequence[str] = question.attributes.get("labels", ())
    return tuple(own) or choice_labels(reward, len(question.attributes.get("choices", ())))


def choice_labels(reward: config.Reward, count: int) -> tuple[str, ...]:
    """What `count` options are called; fewer where the user's own words do not suffice."""
    labels = reward.labels if isinstance(reward, config.ChoiceReward) else "letters"
    if labels == "letters":
        return labels_of(count)
    return tuple(map(str, range(1, count + 1))) if labels == "numbers" else labels[:count]


def choice_label(value: str, choices: Sequence[str], labels: Sequence[str], reward: config.Reward) -> str | None:
    """The label of the option that a reference means, None where it means none.

    A text that is a label is taken for one even where another option's text is the same: `task.reward.reference` says
    otherwise. Numbers that count need it.
    """
    kind = reward.reference if isinstance(reward, config.ChoiceReward) else "auto"
    if kind in ("zero_based", "one_based"):
        return _counted(value, 1 if kind == "one_based" else 0, labels)
    if getattr(reward, "normaliser", "v1") == "v1":
        return choice_letter_v1(value, choices)
    folded = [label.casefold() for label in labels]
    if kind != "text" and value.strip("(). ").casefold() in folded:
        return labels[folded.index(value.strip("(). ").casefold())]
    return None if kind == "label" else _worded(value, choices, labels)


def _counted(value: str, base: int, labels: Sequence[str]) -> str | None:
    text = value.strip()
    place = int(text) - base if text.isascii() and text.isdigit() else -1
    return labels[place] if 0 <= place < len(labels) else None


def _worded(value: str, choices: Sequence[str], labels: Sequence[str]) -> str | None:
    if value in choices:
        return labels[list(choices).index(value)]
    same = [label for label, option in zip(labels, choices, strict=True) if exact_match(option, value)]
    return same[0] if len(same) == 1 else None
