"""What counts as the same text, by each named normaliser."""

from __future__ import annotations

import collections
import json
import re
import string
from pathlib import Path

import pytest

from haps_search.tasks.normalise import NORMALISERS, default
from haps_search.tasks.overlap import contains, exact_match, token_f1

GOLDEN = json.loads((Path(__file__).parents[1] / "assets" / "answers" / "v1.json").read_text())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-5", "5"),
        ("1.5", "15"),
        ("3/4", "34"),
        ("C++", "C"),
        ("C#", "C"),
        ("x<0", "x>0"),
        ("2*3", "23"),
        ("x²", "x2"),
        ("A-", "A"),
        ("10:30", "1030"),
        ("Vitamin A", "vitamin"),
        ("f(x)", "fx"),
        ("5%", "5"),
        ("+", "-"),
        ("1,5", "15"),
        ("", "A"),
    ],
)
def test_another_answer_stays_another(one: str, other: str) -> None:
    assert exact_match(one, other) == exact_match(other, one) == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u22125", "-5"),
        ("don\u2019t", "don't"),
        ("dont", "don't"),
        ("\u201cYes\u201d", "yes"),
        ("«Oui»", "oui"),
        ("北京大学。", "北京大学"),
        ("《红楼梦》", "红楼梦"),
        ("北京 大学", "北京大学"),
        ("５０％", "50%"),
        ("50 %", "50%"),
        ("x < 0", "x<0"),
        ("a + b", "a+b"),
        ("1,234,567", "1234567"),
        (".5", "0.5"),
        ("½", "1/2"),
        ("1½", "1 1/2"),
        ("x²", "x^2"),
        ("10⁻³", "10^-3"),
        ("H₂O", "H2O"),
        ("٣", "3"),
        ("e\u0301t\u00e9", "été"),
        ("Straße", "STRASSE"),
        ("U.S.A.", "USA"),
        ("Harbour-Line", "the harbour line"),
        ("1990\u20131995", "1990-1995"),
        ("Simon & Garfunkel", "Simon and Garfunkel"),
        ("**Paris**", "Paris."),
        ("$x<0$", "x<0"),
        (r"\boxed{\text{Paris}}", "paris"),
        ("(1911)", "1911"),
        ("A cat", "cat"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_ways_of_writing_are_folded(one: str, other: str) -> None:
    assert exact_match(one, other) == exact_match(other, one) == 1.0


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        # characters shared / (both lengths): 2 * 4 / (6 + 4)
        ("北京大学在这", "北京大学", 0.8),
        ("東京タワー", "東京", 2 * 2 / (5 + 2)),
        # ก า ร เ รี ย น against เ รี ย น: vowel signs stay on their letter
        ("การเรียน", "เรียน", 2 * 4 / (7 + 4)),
        ("the Kaal district", "Kaal", 2 / 3),
        ("cat cat dog", "cat owl", 2 / 5),
        ("yes it is", "yes", 0.0),
        ("no", "no one", 0.0),
        ("-5 degrees", "5 degrees", 0.5),
    ],
)
def test_f1_counts_words_or_characters(said: str, wanted: str, f1: float) -> None:
    assert token_f1(said, wanted) == pytest.approx(f1, abs=1e-12)


def test_a_text_that_nothing_is_left_of_keeps_itself() -> None:
    assert default("The") == ["the"]
    assert default("?") == ["?"]
    assert exact_match("?", "!") == 0.0
    assert exact_match("", "") == 0.0


@pytest.mark.parametrize(
    ("text", "reference", "paid"),
    [
        ("It is the Harbour Line, I think.", "harbour-line", 1.0),
        ("15 or 25", "5", 0.0),
        ("他毕业于北京大学。", "北京大学", 1.0),
        ("京北", "北京", 0.0),
        ("anything", "", 0.0),
    ],
)
def test_contains_looks_for_whole_tokens_in_a_row(text: str, reference: str, paid: float) -> None:
    assert contains(text, reference) == paid


def _official_tokens(text: str) -> list[str]:
    """SQuAD's evaluate-v2.0.py, `normalize_answer` and `get_tokens`, step by step."""

    def remove_articles(text: str) -> str:
        return re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)

    exclude = set(string.punctuation)
    bare = "".join(ch for ch in text.lower() if ch not in exclude)
    return " ".join(remove_articles(bare).split()).split()


def _official_f1(gold: str, predicted: str) -> float:
    gold_toks, pred_toks = _official_tokens(gold), _official_tokens(predicted)
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return float(int(gold_toks == pred_toks))
    if num_same == 0:
        return 0
    precision, recall = 1.0 * num_same / len(pred_toks), 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def test_squad_is_the_official_script_to_the_digit() -> None:
    for said, wanted, *_ in GOLDEN["pairs"]:
        assert NORMALISERS["squad"](said) == _official_tokens(said)
        assert token_f1(said, wanted, "squad") == _official_f1(wanted, said)
        assert exact_match(said, wanted, "squad") == float(_official_tokens(said) == _official_tokens(wanted))
    assert token_f1("yes it is", "yes", "squad") == 0.5  # no rule of HotpotQA's
