"""Which option a text states. Every kind of misreading that was reported has a line here."""

from __future__ import annotations

import pytest

from haps_search.tasks.choice_reading import read_choice

FRUIT = ("apple", "banana", "cherry", "date")
CITIES = ("Paris", "London", "York", "New York")
FORMULA = r"We find \boxed{\langle H\rangle \ll \Delta E}, so the last one holds." + "\n\n**Answer: D**"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Answer: **D**", "D"),
        ("The correct answer is **B**.", "B"),
        (r"\boxed{C}", "C"),
        ("<answer>B</answer>", "B"),
        ("The correct answer is d.", "D"),
        ("b. 4", "B"),
        ("I would pick B \u2014 a safe choice.", "B"),
        ("B is correct", "B"),
        ("The answer would be B", "B"),
        ("Correct: B", "B"),
        ("The answer is not A but B.", "B"),
        ("A and B are both wrong, so C", "C"),
        ("It can't be A. It is D", "D"),
        ("Antwort:\nAntwort: C", "C"),
        ("答案是C", "C"),
        ("答案\uff1aB", "B"),
        ("<think>A is red, and so is C. Maybe A?</think>\nB", "B"),
        (FORMULA, "D"),
        ("I considered (A), but it is incorrect. Final answer: D.", "D"),
        ("A: no. B: yes.", "B"),
        ("The answer is B. Note that A is a common distractor.", "B"),
        ("The answer is C because I computed the integral.", "C"),
    ],
)
def test_what_is_stated_is_read(text: str, label: str) -> None:
    parsed = read_choice(text, FRUIT)
    assert parsed.answer == label
    assert parsed.stated == ()
    assert parsed.how


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Based on the passage, I cannot tell.", "none of the options A to D"),
        ("banana or cherry", "several options: B, C"),
        ("The answer is A or B.", "several options at once: A, B"),
        ("A, B, C, D", "several options: A, B, C, D"),
        ("Answer: E", "names E, and the options are A to D"),
        ("A. apple\nB. banana\nC. cherry\nD. date", "none of the options that it names"),
        ("The answer is not A.", "none of the options that it names"),
        ("  ", "empty"),
        ("<think>It is B", "nothing is said after the thinking"),
        ("A city", "none of the options A to D"),
    ],
)
def test_what_states_nothing_has_a_reason(text: str, reason: str) -> None:
    parsed = read_choice(text, FRUIT)
    assert parsed.answer is None
    assert reason in (parsed.failure or "")


@pytest.mark.parametrize(
    ("text", "label", "stated"),
    [
        ("Answer: A. Wait. Answer: C.", "C", ("A", "C")),
        ("The answer is A. The answer is B. The answer is A.", "A", ("A", "B")),
        (r"The answer is A, or rather \boxed{B}", "B", ("A", "B")),
        ("Answer: B. The answer is B.", "B", ()),
    ],
)
def test_the_last_of_several_statements_counts_and_all_are_known(
    text: str, label: str, stated: tuple[str, ...]
) -> None:
    parsed = read_choice(text, FRUIT)
    assert (parsed.answer, parsed.stated) == (label, stated)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("B) London, not (B) York", "B"),
        ("A city like (B)", "B"),
        ("It must be London!", "B"),
        ("york", "C"),
        ("I think it is New York.", "D"),
        ("Answer: New York", "D"),
    ],
)
def test_options_are_read_by_their_words(text: str, label: str) -> None:
    assert read_choice(text, CITIES).answer == label


@pytest.mark.parametrize(
    "text",
    [
        "B. If A were correct, the river would be the Seine.",
        "The answer is B. If A was right, we would see snow.",
        "Answer: B\n\nExplanation: Although A is a correct statement, it does not answer the question.",
        "B. While A is true, it is not relevant.",
        "B. Even though (C) is correct in general, it does not apply here.",
        "答案是B。虽然A正确\uff0c但与此无关。",
        "B. Obwohl Antwort A richtig klingt, passt sie hier nicht.",
    ],
)
def test_what_is_supposed_or_granted_is_not_stated(text: str) -> None:
    parsed = read_choice(text, FRUIT)
    assert (parsed.answer, parsed.stated) == ("B", ())


@pytest.mark.parametrize(
    "text",
    [
        "D names a fruit. A names another one, while B is correct.",
        "If you ask me, B is correct, and not A.",
        "If A is wrong, then B is correct.",
        "A nombra otra cosa. Se confirma que B es correcta.",
    ],
)
def test_words_like_if_and_while_before_what_is_stated(text: str) -> None:
    assert read_choice(text, FRUIT).answer == "B"


def test_signs_tell_options_apart() -> None:
    for text, label in (("-1", "A"), ("\u22121", "A"), ("1", "B"), ("The answer is -1.", "A"), ("x = 1", "B")):
        assert read_choice(text, ("-1", "1", "2")).answer == label


def test_a_label_counts_before_an_option_whose_words_are_that_letter() -> None:
    assert read_choice("B", ("B", "A")).answer == "B"
    assert read_choice("The answer is B.", ("B", "A")).answer == "B"


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("1", "2", "3", "4"), "Option 2 is correct.", "2"),
        (("1", "2", "3", "4"), "There are 4 of them, so the answer is 3.", "3"),
        (("1", "2", "3", "4"), "4)", "4"),
        (("one", "two", "three", "four"), "I choose two.", "two"),
        (("i", "ii", "iii", "iv"), "The answer is (iii).", "iii"),
        (("1", "2", "3", "4"), "Option 2", "2"),
        (("1", "2", "3", "4"), "**Option 2**", "2"),
        (("1", "2", "3", "4"), "Choice 2, since bananas are yellow.", "2"),
        (("1", "2", "3", "4"), "I think option 2", "2"),
        (("1", "2", "3", "4"), "Option #2", "2"),
        ((), "The second option is right.", "B"),
        ((), "Option 3", "C"),
    ],
)
def test_labels_may_be_numbers_and_words(labels: tuple[str, ...], text: str, label: str) -> None:
    assert read_choice(text, FRUIT, labels).answer == label


def test_numbers_that_are_no_labels_are_not_read() -> None:
    for text in ("Between 2 and 3 bananas grow on it.", "Option 2 or option 3"):
        assert read_choice(text, FRUIT, ("1", "2", "3", "4")).answer is None


def test_long_and_broken_texts_are_read_all_the_same() -> None:
    for text in ("*" * 4000, r"\boxed{" * 800, "~~" * 2000, "the answer is " * 400, "<answer>" * 500, "(" * 4000):
        assert read_choice(text, FRUIT).answer is None
