"""Where questions fall must never change: a test split that moved would have been trained on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from haps_search.tasks.split_key import split_key
from haps_search.tasks.tables.splits import folds, hash_split

ASSETS = Path(__file__).parents[1] / "assets"
MADE = (
    "What is −5?", "What is 5?", "What is -5?", "《红楼梦》是谁写的？", "红楼梦是谁写的", "Who wrote “The Raven”?",
    'Who wrote "The Raven"?', "don’t", "don't", "C++ or C?", "C or C", "ภาษาไทย", "３/４", "3/4", "a", "The", "?", "",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Harbour-Line!", "harbourline"),
        ("a cat, an owl and the dog", "cat owl and dog"),
        ("Theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("", ""),
        ("A", "a"),
        ("The The", "the the"),
        ("+", "+"),
        ("-5", "5"),
        ("don’t", "don’t"),
    ],
)
def test_the_key_of_a_text(text: str, wanted: str) -> None:
    assert split_key(text) == wanted


def _digest(texts: list[str]) -> str:
    """Of the held-out side and the fold of each text, as `task.held_out: 0.2` and `task.folds: 5` give them."""
    sides = np.where(hash_split(texts, 0.2), 9, folds(texts, 5))
    return hashlib.sha256("".join(map(str, sides)).encode()).hexdigest()[:16]


def test_no_question_moves() -> None:
    texts = [json.loads(line)["question"] for line in (ASSETS / "hotpotqa_tiny.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (ASSETS / "replay_tiny.jsonl").read_text().splitlines()]
    replayed = list(dict.fromkeys(row["query"] for row in rows))
    golden = json.loads((ASSETS / "answers" / "v1.json").read_text())
    assert _digest(texts) == "92a48572ea961f3a"
    assert _digest(replayed) == "2750ef5389945158"
    assert _digest(list(MADE)) == "e38deaf7b29b54fc"
    assert _digest([text for text, _ in golden["normalise"]]) == "d955f151a782fde5"


@pytest.mark.skipif("HAPS_LLMROUTER9" not in os.environ, reason="HAPS_LLMROUTER9 names its outcomes.jsonl")
def test_no_question_of_llmrouter9_moves() -> None:
    with Path(os.environ["HAPS_LLMROUTER9"]).open(encoding="utf-8") as rows:
        texts = [json.loads(row)["query"] for row in rows]
    assert len(texts) == 5489
    assert _digest(texts) == "1885a63de3f3f14b"
