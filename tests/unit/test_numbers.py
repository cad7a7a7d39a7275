"""Which number a text states, and when it is the reference's; expressions by math-verify."""

from __future__ import annotations

import pytest

from haps_search.config.rewards import NumericReward
from haps_search.errors import ConfigError
from haps_search.tasks import maths
from haps_search.tasks.maths import Equality, read_expression
from haps_search.tasks.numeric import number_of, read_number, same_number

PLAIN = NumericReward()


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("The answer is 42.", "42"),
        ("#### 1,234", "1234"),
        ("12 345", "12345"),
        (r"\$1{,}000", "1000"),
        ("so 3/4", "0.75"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"2\frac{1}{2}", "2.5"),
        ("1 1/2", "1.5"),
        ("½", "0.5"),
        ("\u22125", "-5"),
        ("50%", "0.5"),
        ("50%", "50"),
        ("50", "50%"),
        ("50 percent", "50 %"),
        ("1.2 × 10^5", "120000"),
        (r"1.2\times 10^{5}", "1.2e5"),
        ("3 million", "3,000,000"),
        ("10^3", "1000"),
        ("1000", r"$10^{3}$"),
        ("The answer is 10^{-2}.", "0.01"),
        ("-10^3 m", "-1 km"),
        ("2^10", "1024"),
        ("10**3", "1000"),
        ("(2)^3", "8"),
        (r"90^{\circ}", "90"),
        (r"the 5^{th}", "5"),
        ("1/10^2", "0.01"),
        ("25 cents", "$0.25"),
        ("$0.25", "25 cents"),
        ("1 cent", "0.01 euros"),
        ("25\u00a2", "$0.25"),
        ("5 pence", "£0.05"),
        ("25", "25 cents"),
        ("５", "5"),
        (".5", "0.5"),
        ("The answer is 5 - 3 = 2.", "2"),
        ("Antwort: 41\nAntwort: 42", "42"),
        ("3 boxes of 14 are 42", "42"),
        ("The answer is not 5, it is 6", "6"),
        ("<think>41</think>42", "42"),
        ("答案是42。", "42"),
        ("行驶80千米。", "80"),
        ("<answer>7</answer> of 9", "7"),
        ("5 km", "5000 m"),
        ("5 kilometers", "5 km"),
        ("20 °C", "68 °F"),
        ("60 mph", "26.8224 m/s"),
        ("$18", "18 dollars"),
        ("18", "$18"),
        ("42 in all", "42 m"),
        ("42 oranges", "42 apples"),
    ],
)
def test_the_same_number(text: str, reference: str) -> None:
    read = read_number(text, PLAIN)
    assert read.answer is not None
    assert same_number(read.answer, reference, PLAIN)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("5", "-5"),
        ("1.5", "15"),
        ("3/4", "34"),
        ("5%", "500"),
        ("5 m", "5 km"),
        ("5 s", "5 m"),
        ("18 euros", "$18"),
        ("10^9", "10^6"),
        ("2^10", "2^{3}"),
        ("10^2", "10"),
        ("25 cents", "$25"),
        ("25 cents", "25 yen"),
        ("5 pence", "5 cents"),
        ("3.1416", "3.14159"),
        ("42", "no number"),
    ],
)
def test_another_number(text: str, reference: str) -> None:
    read = read_number(text, PLAIN)
    assert read.answer is not None
    assert not same_number(read.answer, reference, PLAIN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("none", "no number"),
        ("The answer is 42 or 43", "several numbers at once: 42, 43"),
        ("It is 42 or 43", "several numbers at once: 42, 43"),
        ("There is not enough information about the 4 hours.", "says that it has no answer"),
        ("<think>4", "nothing is said"),
        ("1/0", "no number"),
        ("2^n", "no number"),
        ("12.5^n", "no number"),
        (r"10^{1.5}", "no number"),
        ("10^(1/2)", "no number"),
        ("10^999", "no number"),
        ("1e999", "no number"),
        ("(-2)^3", "no number"),
    ],
)
def test_no_number(text: str, reason: str) -> None:
    parsed = read_number(text, PLAIN)
    assert parsed.answer is None
    assert reason in (parsed.failure or "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 7, obtained by plugging x = 3 into 2x + 1.", 7),
        ("The answer is 5 when x = 2.", 5),
        ("The answer is 8 (with a = 3, b = 5).", 8),
        ("The answer is 15 given that n = 5.", 15),
        (r"\boxed{5 \text{ for } x = 2}", 5),
        ("The answer is x = 4, because x = 8 / 2.", 4),
        ("The answer is 3 + 4 = 7", 7),
        ("The answer is 5 * 3 = 15, 15 + 2 = 17.", 17),
        ("The answer is 100 minus 30 for lunch = 70.", 70),
        ("The answer is 2 (3 + 4) = 14.", 14),
        ("The answer is 2x = 10 and so x = 5.", 5),
        (r"\boxed{f(2) = 9}", 9),
        ("The answer is x = 4 or x = 4.0.", 4),
    ],
)
def test_an_equation_in_an_aside_is_not_the_answer(text: str, number: float) -> None:
    read = number_of(read_number(text, PLAIN).answer or "")
    assert read is not None
    assert read.value == number


@pytest.mark.parametrize(
    "text",
    [
        "The answer is x = 4 or x = -4.",
        r"\boxed{x = 4 \text{ or } x = -4}",
        "The answer is x = 4, or x = -4.",
        "The answer is x = 4 (or x = -4).",
        "The answer is x = 4 and y = 5.",
    ],
)
def test_equations_joined_by_or_are_several_numbers(text: str) -> None:
    assert "several numbers at once: 4, " in (read_number(text, PLAIN).failure or "")


def test_several_statements_are_known() -> None:
    assert read_number("Answer: 1. Answer: 2.", PLAIN).stated == ("1", "2")
    assert read_number("Answer: 0.5. Answer: 1/2.", PLAIN).stated == ()


def test_tolerance_is_relative_and_absolute_at_zero() -> None:
    near = NumericReward(tolerance=0.01)
    assert same_number("1009", "1000", near)
    assert not same_number("1011", "1000", near)
    assert same_number("0.009", "0", near)
    exact = NumericReward(tolerance=0)
    assert same_number("0.1", "1/10", exact)
    assert not same_number("0.1000001", "0.1", exact)


def test_the_decimal_sign_is_declared() -> None:
    german = NumericReward(decimal=",")
    for text, value in (("1.350,50", 1350.5), ("3,14", 3.14)):
        number = number_of(text, ",")
        assert number is not None
        assert number.value == pytest.approx(value)
        assert same_number(text, text, german)


def test_units_may_be_required_or_ignored() -> None:
    assert not same_number("5", "5 km", NumericReward(units="required"))
    assert same_number("5 m", "5 km", NumericReward(units="ignored"))


@pytest.fixture(scope="module")
def equal() -> Equality:
    pytest.importorskip("math_verify")
    return Equality(10)


@pytest.mark.parametrize(
    ("text", "reference", "paid"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        ("The answer is $x^2+2x+1$", "(x+1)^2", True),
        (r"$\sqrt{8}$", r"2\sqrt{2}", True),
        ("So 6*7 = 42", "42", True),
        (r"\boxed{x=5}", "5", True),
        ("I get 12 apples", "12", True),
        ("-5", "5", False),
        ("x<0", "x>0", False),
        ("[0,1]", "[0,1)", False),
        ("1/3", "0.3333", False),
    ],
)
def test_expressions_are_compared_by_their_meaning(equal: Equality, text: str, reference: str, paid: bool) -> None:
    read = read_expression(text).answer
    assert read is not None
    assert equal(read, reference) is paid


def test_an_expression_that_nobody_finishes_earns_nothing_and_the_next_one_is_compared() -> None:
    pytest.importorskip("math_verify")
    impatient = Equality(1)
    try:
        assert impatient("1/2", "0.5")
        assert not impatient("9^{9^{9^9}}", "2")
        assert impatient("1/2", "0.5")
        assert not impatient("1" * 3000, "1")
    finally:
        impatient.close()


def test_boxes_that_differ_are_several() -> None:
    assert read_expression(r"\boxed{1} or \boxed{2}").stated == ("1", "2")
    assert read_expression(r"\boxed{x + 1} ... \boxed{x+1}").stated == ()


def test_without_the_library_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "_LIBRARY", "no_such_library_here")
    with pytest.raises(ConfigError, match=r"haps-search\[math\]"):
        maths.require_library()
