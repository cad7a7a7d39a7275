"""Naming many options is no strategy: nothing that a router could learn to say earns more than an honest guess."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from statistics import fmean

import pytest
import torch

from haps_search.config.rewards import ChoiceReward, ContainsReward, ExactReward, F1Reward, NumericReward, Reward
from haps_search.tasks.rewards import build_reward
from haps_search.types import Completion, Episode, Parsed, Question, Sampled

OPTIONS = ("apple", "banana", "cherry", "date")
JOINTS = (", ", " or ", " and ", "\n", ". ", " / ", "; ")
FORMS = (
    "{}",
    "The answer is {}.",
    "Answer: {}",
    "({})",
    r"\boxed{{{}}}",
    "<answer>{}</answer>",
    "{} is correct",
    "so {}",
)
EACH = ("Answer: {}", "The answer is {}", "{} is correct", "({})", "<answer>{}</answer>", "I choose {}", "{}", "so {}")


def _texts() -> list[str]:
    """Every subset of labels, or of the options' words, in every form: joined within a form, or a form each."""
    texts = []
    for words, choose in ((("A", "B", "C", "D"), itertools.permutations), (OPTIONS, itertools.combinations)):
        subsets = [s for size in (1, 2, 3, 4) for s in choose(words, size)]
        for subset, joint in itertools.product(subsets, JOINTS):
            texts += [form.format(joint.join(subset)) for form in FORMS]
            texts += [joint.join(form.format(word) for word in subset) for form in EACH]
    return list(dict.fromkeys(texts))


def _earns(reward: Reward, text: str, references: tuple[str, ...], learning: bool) -> float:
    """The mean over questions that differ in nothing but their reference: what the text earns who knows nothing."""
    scheme = build_reward(reward)
    questions = [Question("q", "?", reference, attributes={"choices": OPTIONS}) for reference in references]
    parsed = scheme.read(questions[0], text)  # which knows nothing of the reference
    said = Completion("answerer", "m", (), Sampled(text, (), (), 0, 0), parsed)
    if parsed.answer is None or (learning and Episode(questions[0], ("m",), (said,)).hedged):
        return 0.0
    answer = parsed.answer
    return fmean(scheme.pay(question, answer) for question in questions)


TEXTS = _texts()


@pytest.mark.parametrize("learning", [True, False])
def test_no_way_of_naming_options_earns_more_than_a_guess(learning: bool) -> None:
    assert len(TEXTS) > 4000
    for text in TEXTS:
        assert _earns(ChoiceReward(), text, ("A", "B", "C", "D"), learning) <= 0.25, text


def test_while_learning_several_statements_earn_nothing_at_all() -> None:
    for text in ("Answer: A. Answer: B.", "A is correct. C is correct.", r"\boxed{A} \boxed{D}"):
        assert _earns(ChoiceReward(), text, ("A", "B", "C", "D"), learning=True) == 0.0
        assert _earns(ChoiceReward(), text, ("A", "B", "C", "D"), learning=False) == 0.25


@pytest.mark.parametrize(
    ("reward", "most"),
    # F1 pays for sharing words, with any text: one of four options in a row of four is 2 * 1 / (4 + 1).
    [(ExactReward(), 0.25), (F1Reward(), 0.4), (ContainsReward(), 0.25)],
)
def test_other_rewards_of_questions_with_options(reward: Reward, most: float) -> None:
    for text in TEXTS[::7]:
        assert _earns(reward, text, OPTIONS, learning=True) <= most, text


def test_numbers() -> None:
    texts = [joint.join(numbers) for numbers in itertools.permutations("1234", 3) for joint in JOINTS]
    for text in (form.format(each) for each in texts for form in FORMS):
        assert _earns(NumericReward(), text, ("1", "2", "3", "4"), learning=True) <= 0.25, text


def test_a_router_that_is_paid_as_in_training_learns_the_honest_way() -> None:
    """REINFORCE over ways of answering: one knows 4 of 10 answers and says one, the others name several."""
    ways = (
        "{guess}",
        "Answer: A. Answer: B. Answer: C. Answer: D",
        "A or B or C or D",
        "A, {guess}",
        "(A) (B) (C) (D)",
    )
    logits = torch.zeros(len(ways), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    draw = torch.Generator().manual_seed(0)
    read = cache(partial(build_reward(ChoiceReward()).read, Question("q", "?", "A", attributes={"choices": OPTIONS})))
    for _ in range(150):
        chosen = torch.multinomial(logits.softmax(0), 16, replacement=True, generator=draw)
        earned = torch.tensor([_paid(read, ways[way], draw) for way in chosen.tolist()], dtype=torch.float64)
        loss = -((earned - earned.mean()) * logits.log_softmax(0)[chosen]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert int(logits.argmax()) == 0
    assert float(logits.softmax(0)[0].detach()) > 0.8


def _paid(read: Callable[[str], Parsed], way: str, draw: torch.Generator) -> float:
    reference = "ABCD"[int(torch.randint(4, (1,), generator=draw))]
    knows = float(torch.rand(1, generator=draw)) < 0.2
    guess = reference if knows else "ABCD"[int(torch.randint(4, (1,), generator=draw))]
    parsed = read(way.format(guess=guess))
    return 0.0 if parsed.stated else float(parsed.answer == reference)
