"""294 chat answers in ten styles and more, five languages and more; 150 were written by somebody who had not seen the
readers. They were scored once before anything was mended for them: 129 of the 150 were read right (multiple choice
96 of 100, numbers 28 of 30, short answers 5 of 20, which were compared whole then).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from haps_search.config.rewards import ChoiceReward, ExactReward, NumericReward, Reward
from haps_search.tasks.rewards import Scheme, build_reward
from haps_search.types import Question

FILE = Path(__file__).parents[1] / "assets" / "answers" / "corpus.jsonl"
CORPUS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
MISREAD = {
    "blind-044": "the answer is a bold phrase within a sentence, and the sentence is compared",
    "blind-128": "a refusal is compared as it is, since a reference may be one",
    "blind-135": "the answer ends a sentence that calls it nothing, and the sentence is compared",
}
"""What is misread today, and how."""


def _reward(item: dict[str, Any]) -> Reward:
    match item["kind"]:
        case "multiple_choice":
            return ChoiceReward()
        case "numeric":
            return NumericReward(decimal=item.get("decimal", "."))
        case _:
            return ExactReward()


def _question(item: dict[str, Any]) -> Question:
    reference = item["reference"]
    first, *others = reference if isinstance(reference, list) else [reference]
    attributes = {"choices": tuple(item["options"])} if "options" in item else {}
    if "labels" in item:
        attributes["labels"] = tuple(item["labels"])
    return Question(item["id"], "?", first, attributes=attributes, other_references=tuple(others))


def _right(item: dict[str, Any]) -> bool:
    """Read as somebody who knows the answer reads it (in another wording of the reference at most), and paid so."""
    scheme, question = build_reward(_reward(item)), _question(item)
    read, paid = scheme.read(question, item["text"]).answer, 0.0
    if read is not None:
        paid = scheme.pay(question, read)
    if paid != float(item["correct"]):
        return False
    if read is None or item["read"] is None:
        return read is item["read"]
    return paid == 1.0 or _same(scheme, question, read, item["read"])


def _same(scheme: Scheme, question: Question, read: str, wanted: str) -> bool:
    return scheme.compared(question, read) == scheme.compared(question, wanted)


def test_the_corpus_is_what_it_should_be() -> None:
    blind = [item for item in CORPUS if item["half"] == "blind"]
    assert len(CORPUS) >= 200
    assert len(blind) * 2 >= len(CORPUS)
    assert len({item["style"] for item in blind}) == 10
    assert len({item["language"] for item in blind}) == 5
    assert (
        len({item["id"] for item in CORPUS}) == len({(i["text"], str(i.get("options"))) for i in CORPUS}) == len(CORPUS)
    )


def test_what_is_misread_is_listed() -> None:
    assert {item["id"] for item in CORPUS if not _right(item)} == set(MISREAD)


@pytest.mark.parametrize("half", ["seen", "blind"])
def test_97_of_100_are_read_right(half: str) -> None:
    items = [item for item in CORPUS if item["half"] == half]
    right = Counter(_right(item) for item in items)[True]
    assert right / len(items) >= 0.97
