"""Rewards, worked out by hand."""

import re

import pytest

from haps_search.tasks.rewards import (
    choice_letter,
    exact_match,
    normalise,
    read_choice,
    read_pattern,
    token_f1,
)

CITIES = ("Paris", "London", "York", "New York")


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
    ],
)
def test_normalise(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


@pytest.mark.parametrize(
    ("prediction", "reference", "wanted"),
    [
        ("the Harbour Line", "Harbour line.", 1.0),
        # said: kaal district; wanted: kaal; shared 1, precision 1/2, recall 1 -> 2/3
        ("the Kaal district", "Kaal", 2 / 3),
        # bags: said {cat: 2, dog: 1}, wanted {cat: 1, owl: 1}; shared 1 of 3 and 2 -> 2/5
        ("cat cat dog", "cat owl", 2 / 5),
        ("Paris", "London", 0.0),
        ("", "London", 0.0),
        ("yes", "Yes.", 1.0),
        # the bags share a token, but yes, no and noanswer are all or nothing, on either side
        ("yes it is", "yes", 0.0),
        ("no", "no one", 0.0),
        ("noanswer", "noanswer given", 0.0),
        ("not at all", "not", 2 / 4),
    ],
)
def test_token_f1(prediction: str, reference: str, wanted: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(wanted, abs=1e-12)


def test_exact_match_compares_normalised_texts() -> None:
    assert exact_match("The Dane!", "dane") == 1.0
    assert exact_match("the river Dane", "Dane") == 0.0
    assert exact_match("", "A") == 0.0
    assert exact_match("", "") == 0.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b.", "B"),
        ("Answer: B.", "B"),
        ("The answer is (B) because it rains there.", "B"),
        ("The answer is B because it rains there.", "B"),
        ("B. London", "B"),
        ("B) London, not (B) York", "B"),
        ("London", "B"),
        ("It must be London!", "B"),
        ("york", "C"),
        ("I think it is New York.", "D"),
        ("Answer: New York", "D"),
        ("A city like (B)", "B"),  # the bare A is an article
    ],
)
def test_choices_are_read_by_letter_and_by_words(text: str, letter: str) -> None:
    assert read_choice(text, CITIES).answer == letter


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  ", "empty"),
        ("(A) or (B)", "several options: A, B"),
        ("Paris or London", "several options: A, B"),
        ("Berlin", "none of the options A to D"),
        ("A city", "none of the options A to D"),
        ("Answer: F.", "names F, and the options are A to D"),
    ],
)
def test_an_unread_choice_is_a_value_with_a_reason(text: str, reason: str) -> None:
    parsed = read_choice(text, CITIES)
    assert parsed.answer is None
    assert parsed.failure is not None
    assert reason in parsed.failure


def test_a_letter_that_is_another_options_text_is_ambiguous() -> None:
    parsed = read_choice("B", ("B", "A"))
    assert parsed.answer is None
    assert "A, B" in (parsed.failure or "")


@pytest.mark.parametrize(
    ("reference", "letter"),
    [("New York", "D"), ("york", "C"), ("b", "B"), ("Berlin", None), ("E", None), ("AB", None)],
)
def test_a_reference_is_an_options_text_or_letter(reference: str, letter: str | None) -> None:
    assert choice_letter(reference, CITIES) == letter


def test_patterns_give_their_first_group_or_whole_match() -> None:
    assert read_pattern(re.compile(r"#### *(-?\d+)"), "so #### 42 and #### 7").answer == "42"
    assert read_pattern(re.compile(r"\d+"), "in 1911").answer == "1911"
    parsed = read_pattern(re.compile(r"x(\d)?"), "x")
    assert parsed.answer is None
    assert "x(" in (parsed.failure or "")
