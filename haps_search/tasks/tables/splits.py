"""Splits by a hash of the question's normalised text, so that duplicates never straddle them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.seeds import derive_seed
from haps_search.tasks.split_key import split_key


def hash_split(texts: Sequence[str], fraction: float, salt: str = "") -> NDArray[np.bool_]:
    """Which of N questions are held out: (N,), True for about `fraction` of the different texts.

    A question's side depends on its own normalised text and the salt alone, never on its neighbours or the order.
    Raises ValueError where the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, needs a number between 0 and 1")
    return _uniform(texts, "split", salt) < fraction


def folds(texts: Sequence[str], k: int, salt: str = "") -> NDArray[np.int64]:
    """The fold of each of N questions, 0 to k - 1: (N,), independent of `hash_split` under the same salt.

    Raises ValueError for fewer than two folds.
    """
    if k < 2:
        raise ValueError(f"folds: got {k}, needs 2 or more")
    return np.minimum((_uniform(texts, "fold", salt) * k).astype(np.int64), k - 1)


def _uniform(texts: Sequence[str], kind: str, salt: str) -> NDArray[np.float64]:
    draws = (derive_seed(kind, salt, split_key(text)) / 2**63 for text in texts)
    return np.fromiter(draws, np.float64, len(texts))


@dataclass(frozen=True)
class Digests:
    """What is compared of N texts, so that they need not be kept, each (N,): `exact` is the same for the same text,
    `same` for the same normalised one; `draws` in [0, 1) deal normalised texts into `folds`."""

    exact: NDArray[np.uint64]
    same: NDArray[np.uint64]
    draws: NDArray[np.float64]

    def folds(self, k: int) -> NDArray[np.int64]:
        """As `folds` of the texts."""
        return np.minimum((self.draws * k).astype(np.int64), k - 1)

    def take(self, rows: NDArray[np.intp]) -> Digests:
        return Digests(self.exact[rows], self.same[rows], self.draws[rows])


class TextDigests:
    """Digests of texts that come one at a time."""

    def __init__(self) -> None:
        self.exact, self._same, self._draws = array("Q"), array("Q"), array("d")

    def add(self, text: str) -> None:
        key = split_key(text)
        self.exact.append(exact(text))
        self._same.append(derive_seed(key))
        self._draws.append(derive_seed("fold", "", key) / 2**63)

    def done(self) -> Digests:
        return Digests(
            np.array(self.exact, np.uint64), np.array(self._same, np.uint64), np.array(self._draws, np.float64)
        )


def digests(texts: Sequence[str]) -> Digests:
    """The digests of texts that are at hand."""
    found = TextDigests()
    for text in texts:
        found.add(text)
    return found.done()


def exact(text: str) -> int:
    """A digest of a text to the letter."""
    return derive_seed("text", text)
