"""Splits by a hash of the question's normalised text, so that duplicates never straddle them."""

from __future__ import annotations

from collections.abc import Sequence

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
