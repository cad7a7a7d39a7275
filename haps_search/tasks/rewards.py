"""How a text is compared with a reference: token F1, exact match, multiple choice, regular expression."""

from __future__ import annotations

import importlib
import math
import numbers
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from haps_search.errors import ConfigError, DataError
from haps_search.types import Parsed, Question

LETTERS = string.ascii_uppercase
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ALL_OR_NOTHING = frozenset({"yes", "no", "noanswer"})
# A capital on its own could be an article or a pronoun ("A cat", "I think"): a letter counts as an option
# only where punctuation, the end of the line or a reason follows.
_LETTER = r"(?P<letter>[A-Z])(?=[).:,;\]]|\s*(?:$|\n)|\s+(?:because|since)\b)"
_NAMED = re.compile(
    rf"^\W*(?:{_LETTER})"
    rf"|(?i:\b(?:answer|option|choice)\b(?:\s+is)?)\W*(?:{_LETTER.replace('letter', 'named')})"
    r"|[(\[](?P<bracketed>[A-Z])[)\]]",
)
_ALONE = re.compile(r"\W*([A-Za-z])\W*")


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces (SQuAD and HotpotQA).

    A text that is nothing but an article or punctuation keeps it, where the originals leave the empty text:
    else the option "A" would equal every empty answer.
    """
    lowered = text.lower()
    bare = lowered.translate(_PUNCTUATION)
    stages = (_ARTICLES.sub(" ", bare), bare, lowered)
    return next((words for stage in stages if (words := " ".join(stage.split()))), "")


def exact_match(prediction: str, reference: str) -> float:
    """1 where the normalised texts are equal and not empty, else 0."""
    wanted = normalise(reference)
    return float(bool(wanted) and normalise(prediction) == wanted)


def token_f1(prediction: str, reference: str) -> float:
    """F1 = 2PR / (P + R) over the bags of normalised tokens, in [0, 1].

    HotpotQA's rule: where either text is yes, no or noanswer, only equal texts earn anything.
    """
    said, wanted = normalise(prediction), normalise(reference)
    if said != wanted and (said in _ALL_OR_NOTHING or wanted in _ALL_OR_NOTHING):
        return 0.0
    said_tokens, wanted_tokens = said.split(), wanted.split()
    shared = sum((Counter(said_tokens) & Counter(wanted_tokens)).values())
    if shared == 0:
        return 0.0
    return 2 * shared / (len(said_tokens) + len(wanted_tokens))


def read_pattern(pattern: re.Pattern[str], text: str) -> Parsed:
    """The first group of the first match, or the whole match where the pattern has no group."""
    match = pattern.search(text)
    found = match.group(1 if pattern.groups else 0) if match else None
    if found is None or not found.strip():
        return Parsed(None, f"nothing in the text fits `{pattern.pattern}`")
    return Parsed(found.strip())


def read_choice(text: str, choices: Sequence[str]) -> Parsed:
    """The letter of the option that a text names: by its letter ("(B)", "Answer: B.") or by its own words."""
    if not text.strip():
        return Parsed(None, "the text is empty")
    letters = LETTERS[: len(choices)]
    same = _equal_options(text, choices)
    alone = _ALONE.fullmatch(text)
    if same or alone:
        return _one(same | ({alone[1].upper()} if alone else set()), letters)
    named = {match[match.lastgroup] for match in _NAMED.finditer(text) if match.lastgroup}
    return _one(named or _contained_options(text, choices), letters)


def choice_letter(reference: str, choices: Sequence[str]) -> str | None:
    """The letter of the option a reference means: the option's text, or else its letter; None for neither."""
    if reference in choices:
        return LETTERS[list(choices).index(reference)]
    same = _equal_options(reference, choices)
    if len(same) == 1:
        return same.pop()
    letter = reference.strip().upper()
    return letter if letter and letter in tuple(LETTERS[: len(choices)]) else None


def _equal_options(text: str, choices: Sequence[str]) -> set[str]:
    said = normalise(text)
    return {letter for letter, option in zip(LETTERS, choices, strict=False) if normalise(option) == said}


def _contained_options(text: str, choices: Sequence[str]) -> set[str]:
    """Options whose words stand in the text, without those that are only part of a longer one ("York")."""
    said = f" {normalise(text)} "
    found = {letter: f" {normalise(o)} " for letter, o in zip(LETTERS, choices, strict=False)}
    found = {letter: words for letter, words in found.items() if words in said}
    return {
        letter
        for letter, words in found.items()
        if not any(words != longer and words in longer for longer in found.values())
    }


def _one(named: set[str], letters: str) -> Parsed:
    if len(named) > 1:
        return Parsed(None, f"the text names several options: {', '.join(sorted(named))}")
    if not named:
        return Parsed(None, f"the text names none of the options {letters[0]} to {letters[-1]}")
    letter = named.pop()
    if letter not in letters:
        return Parsed(None, f"the text names {letter}, and the options are {letters[0]} to {letters[-1]}")
    return Parsed(letter)


class UserReward:
    """Calls `function(question, answer) -> float in [0, 1]`, imported at its first call."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._function: Callable[[Question, str], Any] | None = None

    def __call__(self, question: Question, answer: str) -> float:
        """Raises ConfigError (no such function) or DataError (it failed, or its result is not in [0, 1])."""
        function = self._function = self._function or load_function(self._path)
        try:
            value = function(question, answer)
        except Exception as error:  # the user's code may raise anything, and it is raised on with its place
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"reward {self._path} failed on question {question.id} with {what}") from error
        number = float(value) if isinstance(value, numbers.Real) else math.nan
        if not 0 <= number <= 1:
            got = f"{value!r} ({type(value).__name__})"
            raise DataError(f"reward {self._path}: got {got} for question {question.id}, needs a float in [0, 1]")
        return number


def load_function(path: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        ConfigError: no such module or function, or it cannot be called.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        reason = f"task.reward.function: cannot import `{module_name}` ({error})"
        raise ConfigError(f"{reason}: install it, or put its folder on PYTHONPATH") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = "something that cannot be called" if hasattr(module, name) else "nothing"
        raise ConfigError(f"task.reward.function: `{path}` names {there}, needs a function(question, answer)")
    return function
