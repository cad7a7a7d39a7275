"""Propensities that nobody noted: with which probability a log's choices were made, as their questions tell it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from haps_search.evaluation.off_policy import Floats, Ints


@dataclass(frozen=True)
class Estimated:
    """`propensities` (N,) of what was chosen, at least `floor`; `raised` of them were less."""

    propensities: Floats
    raised: int
    floor: float


def estimated(features: Floats, actions: Ints, folds: Ints, floor: float, strength: float = 1.0) -> Estimated:
    """Multinomial logistic regression of the choice on features (N, D), each fold told by what the others taught.

    `strength` is scikit-learn's C. What a fold's choices have and the other folds have not, gets the floor. Raises
    ValueError for fewer than two folds.
    """
    if len(np.unique(folds)) < 2:
        raise ValueError(f"folds: got {len(np.unique(folds))}, needs 2, so that no choice tells of itself")
    found = np.zeros(len(actions))
    for fold in np.unique(folds):
        held, learnt = folds == fold, folds != fold
        found[held] = _told(features[learnt], actions[learnt], features[held], actions[held], strength)
    return Estimated(np.maximum(found, floor), int((found < floor).sum()), floor)


def _told(x: Floats, actions: Ints, asked: Floats, chosen: Ints, strength: float) -> Floats:
    """The probability of each chosen action, (M,)."""
    known = np.unique(actions)
    if len(known) == 1:
        return (chosen == known[0]).astype(np.float64)
    model = LogisticRegression(C=strength, max_iter=1000).fit(x, actions)
    place = np.searchsorted(known, chosen).clip(max=len(known) - 1)
    told = model.predict_proba(asked)[np.arange(len(chosen)), place]
    return np.where(known[place] == chosen, told, 0.0)
