"""The text by which questions are put into splits and found again. Frozen: a change would move test splits."""

from __future__ import annotations

import re
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def split_key(text: str) -> str:
    """Lower case without ASCII punctuation, English articles and extra spaces.

    A text that is nothing but an article or punctuation keeps it: else the option "A" would equal every empty answer.
    """
    lowered = text.lower()
    bare = lowered.translate(_PUNCTUATION)
    stages = (_ARTICLES.sub(" ", bare), bare, lowered)
    return next((words for stage in stages if (words := " ".join(stage.split()))), "")
