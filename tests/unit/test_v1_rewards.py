"""Stored studies are scored as they were: values made by the code before rewards named their normaliser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from haps_search.tasks.overlap import exact_match, token_f1
from haps_search.tasks.rewards import read_pattern
from haps_search.tasks.split_key import split_key
from haps_search.tasks.v1_choices import choice_letter_v1, read_choice_v1

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "assets" / "answers" / "v1.json").read_text())


def test_texts_are_normalised_as_they_were() -> None:
    assert len(GOLDEN["normalise"]) > 150
    assert [split_key(text) for text, _ in GOLDEN["normalise"]] == [wanted for _, wanted in GOLDEN["normalise"]]


def test_exact_match_and_f1_are_the_same_to_the_digit() -> None:
    found = [[a, b, exact_match(a, b, "v1"), token_f1(a, b, "v1")] for a, b, *_ in GOLDEN["pairs"]]
    assert found == GOLDEN["pairs"]
    assert len({f1 for *_, f1 in found}) > 12


def test_options_and_patterns_are_read_as_they_were() -> None:
    read = [(text, options, read_choice_v1(text, options)) for text, options, *_ in GOLDEN["choices"]]
    assert [[text, options, p.answer, p.failure] for text, options, p in read] == GOLDEN["choices"]
    meant = [[text, options, choice_letter_v1(text, options)] for text, options, _ in GOLDEN["letters"]]
    assert meant == GOLDEN["letters"]
    fits = [(pattern, text, read_pattern(re.compile(pattern), text)) for pattern, text, *_ in GOLDEN["patterns"]]
    assert [[pattern, text, p.answer, p.failure] for pattern, text, p in fits] == GOLDEN["patterns"]
