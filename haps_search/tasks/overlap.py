"""How much a text has in common with a reference, under a named normaliser: exact match, token F1, contained."""

from __future__ import annotations

from collections import Counter

from haps_search.config.rewards import NormaliserName
from haps_search.tasks.normalise import NORMALISERS

_ALL_OR_NOTHING = (["yes"], ["no"], ["noanswer"])


def exact_match(prediction: str, reference: str, normaliser: NormaliserName = "default") -> float:
    """1 where the tokens are the same, else 0. Two texts without tokens are the same for `squad` alone."""
    tokens = NORMALISERS[normaliser]
    wanted = tokens(reference)
    return float((bool(wanted) or normaliser == "squad") and tokens(prediction) == wanted)


def token_f1(prediction: str, reference: str, normaliser: NormaliserName = "default") -> float:
    """F1 = 2PR / (P + R) over the bags of tokens, in [0, 1].

    HotpotQA's rule holds but for `squad`: where either text is yes, no or noanswer, only equal texts earn anything.
    """
    tokens = NORMALISERS[normaliser]
    said, wanted = tokens(prediction), tokens(reference)
    if normaliser == "squad":
        return _squad_f1(said, wanted)
    if said != wanted and (said in _ALL_OR_NOTHING or wanted in _ALL_OR_NOTHING):
        return 0.0
    shared = _shared(said, wanted)
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def _squad_f1(said: list[str], wanted: list[str]) -> float:
    """`compute_f1` of evaluate-v2.0.py, operation by operation, since another order would change the last digit."""
    if not said or not wanted:
        return float(said == wanted)
    shared = _shared(said, wanted)
    if shared == 0:
        return 0.0
    precision, recall = 1.0 * shared / len(said), 1.0 * shared / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def _shared(said: list[str], wanted: list[str]) -> int:
    return sum((Counter(said) & Counter(wanted)).values())


def contains(text: str, reference: str, normaliser: NormaliserName = "default") -> float:
    """1 where the reference's tokens stand in the text in a row, else 0."""
    tokens = NORMALISERS[normaliser]
    said, wanted = tokens(text), tokens(reference)
    places = range(len(said) - len(wanted) + 1)
    return float(bool(wanted) and any(said[at : at + len(wanted)] == wanted for at in places))
