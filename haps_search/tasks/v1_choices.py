"""How options were read before rewards named their normaliser. Frozen: stored studies are scored by it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from haps_search.tasks.split_key import split_key
from haps_search.types import Parsed

_LETTERS = string.ascii_uppercase
# A capital on its own could be an article or a pronoun ("A cat", "I think"): a letter counts as an option
# only where punctuation, the end of the line or a reason follows.
_LETTER = r"(?P<letter>[A-Z])(?=[).:,;\]]|\s*(?:$|\n)|\s+(?:because|since)\b)"
_NAMED = re.compile(
    rf"^\W*(?:{_LETTER})"
    rf"|(?i:\b(?:answer|option|choice)\b(?:\s+is)?)\W*(?:{_LETTER.replace('letter', 'named')})"
    r"|[(\[](?P<bracketed>[A-Z])[)\]]",
)
_ALONE = re.compile(r"\W*([A-Za-z])\W*")


def read_choice_v1(text: str, choices: Sequence[str]) -> Parsed:
    """The letter of the option that a text names: by its letter ("(B)", "Answer: B.") or by its own words."""
    if not text.strip():
        return Parsed(None, "the text is empty")
    letters = _LETTERS[: len(choices)]
    same = _equal_options(text, choices)
    alone = _ALONE.fullmatch(text)
    if same or alone:
        return _one(same | ({alone[1].upper()} if alone else set()), letters)
    named = {match[match.lastgroup] for match in _NAMED.finditer(text) if match.lastgroup}
    return _one(named or _contained_options(text, choices), letters)


def choice_letter_v1(reference: str, choices: Sequence[str]) -> str | None:
    """The letter of the option a reference means: the option's text, or else its letter; None for neither."""
    if reference in choices:
        return _LETTERS[list(choices).index(reference)]
    same = _equal_options(reference, choices)
    if len(same) == 1:
        return same.pop()
    letter = reference.strip().upper()
    return letter if letter and letter in tuple(_LETTERS[: len(choices)]) else None


def _equal_options(text: str, choices: Sequence[str]) -> set[str]:
    said = split_key(text)
    return {letter for letter, option in zip(_LETTERS, choices, strict=False) if split_key(option) == said}


def _contained_options(text: str, choices: Sequence[str]) -> set[str]:
    """Options whose words stand in the text, without those that are only part of a longer one ("York")."""
    said = f" {split_key(text)} "
    found = {letter: f" {split_key(o)} " for letter, o in zip(_LETTERS, choices, strict=False)}
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
