"""What an answer is read as and what it is paid, by the reward that the user chose: a scheme per `type`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

from haps_search.config import rewards as config
from haps_search.tasks.choice_labels import labels_for
from haps_search.tasks.choice_reading import read_choice
from haps_search.tasks.markup import spoken
from haps_search.tasks.maths import Equality, read_expression, require_library
from haps_search.tasks.normalise import NORMALISERS
from haps_search.tasks.numeric import number_of, read_number, same_number
from haps_search.tasks.overlap import contains, exact_match, token_f1
from haps_search.tasks.stated import nothing, read_stated
from haps_search.tasks.user_reward import UserFunction
from haps_search.tasks.v1_choices import read_choice_v1
from haps_search.types import Parsed, Question


class Scheme(Protocol):
    """A reward at work."""

    def read(self, question: Question, text: str) -> Parsed:
        """The answer of a text that is not empty, or why it has none."""
        ...

    def pay(self, question: Question, answer: str) -> float:
        """What an answer that was read earns, in [0, 1]: the most over the question's references.

        Raises:
            ConfigError, DataError: the user's own function is missing, failed or left [0, 1].
        """
        ...

    def compared(self, question: Question, text: str) -> str:
        """An answer or reference as it is compared, for people to see."""
        ...

    def key(self, question: Question, text: str) -> str:
        """What answers to several questions have in common where the same one may be right for all of them."""
        ...

    def check(self) -> list[str]:
        """What should be known before it is used, a line each.

        Raises:
            ConfigError: a function or library is missing.
        """
        ...


Own = TypeVar("Own")


class _Scheme(Generic[Own]):
    """What most schemes have in common."""

    def __init__(self, own: Own) -> None:
        self._own = own

    def read(self, question: Question, text: str) -> Parsed:
        return _whole(text)

    def pay(self, question: Question, answer: str) -> float:
        return max(self._one(answer, reference) for reference in question.references)

    def _one(self, answer: str, reference: str) -> float:
        raise NotImplementedError

    def compared(self, question: Question, text: str) -> str:
        return text

    def key(self, question: Question, text: str) -> str:
        return self.compared(question, text)

    def check(self) -> list[str]:
        return []


def _whole(text: str) -> Parsed:
    said = spoken(text)
    return Parsed(said) if said else nothing(text)


class _Texts(_Scheme[config.F1Reward | config.ExactReward | config.ContainsReward | config.RegexReward]):
    """Rewards that compare tokens; `v1` takes the text as it is, thinking included."""

    def read(self, question: Question, text: str) -> Parsed:
        if self._own.normaliser == "v1":
            return Parsed(text)
        stated = self._own.normaliser == "default" and getattr(self._own, "answer", "whole") == "stated"
        return read_stated(text) if stated else _whole(text)

    def compared(self, question: Question, text: str) -> str:
        return " ".join(NORMALISERS[self._own.normaliser](text))

    def _one(self, answer: str, reference: str) -> float:
        score = token_f1 if isinstance(self._own, config.F1Reward) else exact_match
        return score(answer, reference, self._own.normaliser)


class _Pattern(_Texts):
    def read(self, question: Question, text: str) -> Parsed:
        whole = super().read(question, text)
        own = cast(config.RegexReward, self._own)
        return whole if whole.answer is None else read_pattern(re.compile(own.pattern), whole.answer)


class _Contains(_Texts):
    def read(self, question: Question, text: str) -> Parsed:
        """Too long an answer is none; one that contains several of the question's options states several."""
        whole, own = super().read(question, text), cast(config.ContainsReward, self._own)
        if whole.answer is None:
            return whole
        count = len(NORMALISERS[own.normaliser](whole.answer))
        if own.max_words is not None and count > own.max_words:
            return Parsed(None, f"the text has {count} words, and at most {own.max_words} are paid for")
        options = question.attributes.get("choices", ())
        stated = tuple(option for option in options if contains(whole.answer, option, own.normaliser))
        return Parsed(whole.answer, stated=stated if len(stated) > 1 else ())

    def _one(self, answer: str, reference: str) -> float:
        return contains(answer, reference, self._own.normaliser)

    def check(self) -> list[str]:
        if cast(config.ContainsReward, self._own).max_words is not None:
            return []
        return ["warning: task.reward contains has no max_words: a long list of answers earns as much as the right one"]


def read_pattern(pattern: re.Pattern[str], text: str) -> Parsed:
    """The first group of the first match, or the whole match where the pattern has no group."""
    match = pattern.search(text)
    found = match.group(1 if pattern.groups else 0) if match else None
    if found is None or not found.strip():
        return Parsed(None, f"nothing in the text fits `{pattern.pattern}`")
    return Parsed(found.strip())


class _Choice(_Scheme[config.ChoiceReward]):
    """References are labels. A question that is asked by hand has no options, and is answered in words."""

    def read(self, question: Question, text: str) -> Parsed:
        options: Sequence[str] = question.attributes.get("choices", ())
        if not options:
            return _whole(text)
        if self._own.normaliser == "v1":
            return read_choice_v1(text, options)
        return read_choice(text, options, labels_for(question, self._own))

    def _one(self, answer: str, reference: str) -> float:
        return float(answer == reference)

    def compared(self, question: Question, text: str) -> str:
        options: Sequence[str] = question.attributes.get("choices", ())
        named = dict(zip(labels_for(question, self._own), options, strict=False))
        return f"{text}. {named[text]}" if text in named else text

    def key(self, question: Question, text: str) -> str:
        """The label alone, which is what is paid: the text behind it is another one for each question."""
        return text


class _Numeric(_Scheme[config.NumericReward]):
    def read(self, question: Question, text: str) -> Parsed:
        return read_number(text, self._own)

    def _one(self, answer: str, reference: str) -> float:
        return float(same_number(answer, reference, self._own))

    def compared(self, question: Question, text: str) -> str:
        number = number_of(text, self._own.decimal)
        return "no number" if number is None else f"{number.value:.12g} {number.unit}".strip()


class _Math(_Scheme[config.MathReward]):
    def __init__(self, own: config.MathReward) -> None:
        super().__init__(own)
        self._equal = Equality(own.timeout_s)

    def read(self, question: Question, text: str) -> Parsed:
        return read_expression(text)

    def _one(self, answer: str, reference: str) -> float:
        return float(self._equal(answer, reference))

    def check(self) -> list[str]:
        require_library()
        return []


class _Function(_Scheme[config.FunctionReward | config.PluginReward]):
    """The user's own function, or a package's, sees the whole text."""

    def __init__(self, own: config.FunctionReward | config.PluginReward) -> None:
        super().__init__(own)
        self._function = UserFunction(own)

    def read(self, question: Question, text: str) -> Parsed:
        return Parsed(text)

    def pay(self, question: Question, answer: str) -> float:
        return self._function(question, answer)

    def check(self) -> list[str]:
        self._function.load()
        return []


SCHEMES: Mapping[type[Any], Callable[[Any], Scheme]] = {
    config.F1Reward: _Texts,
    config.ExactReward: _Texts,
    config.RegexReward: _Pattern,
    config.ContainsReward: _Contains,
    config.ChoiceReward: _Choice,
    config.NumericReward: _Numeric,
    config.MathReward: _Math,
    config.FunctionReward: _Function,
    config.PluginReward: _Function,
}


def build_reward(reward: config.Reward) -> Scheme:
    """The scheme of a reward's configuration."""
    return SCHEMES[type(reward)](reward)
