"""Cells of an outcome table, (N, C), NaN where none was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def assignment_means(cells: Floats) -> NDArray[np.float64]:
    """The mean of each column over its measured cells, (N, C) -> (C,); a column without any gets NaN."""
    measured = ~np.isnan(cells)
    totals = np.where(measured, cells, 0.0).sum(axis=0, dtype=np.float64)
    counts = measured.sum(axis=0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def prices(costs: Floats) -> NDArray[np.float64]:
    """What each assignment costs on average, (N, C) -> (C,): all that a router knows of a cost before it is paid.

    An assignment whose cost was never measured counts as the dearest. Raises ValueError where no cost was measured.
    """
    means = assignment_means(costs)
    if np.isnan(means).all():
        raise ValueError("costs: got no measured one, needs one at least")
    return np.where(np.isnan(means), np.nanmax(means), means)


def filled(costs: Floats, known: Floats) -> NDArray[np.float64]:
    """The costs (N, C), with the price known for a missing cell, (C,) or (N, C), so that no question drops out of a
    mean."""
    return np.where(np.isnan(costs), known, costs)


def routes(scores: Floats, rewards: Floats, prices: Floats | None = None, cost_weight: float = 0.0) -> Floats:
    """Each question's share per assignment, (N, C), rows summing to 1: where scores - cost_weight * prices is largest.

    Equal maxima share the question, so that what is measured does not hang on the order of the columns. An
    assignment without a reward on the question cannot be chosen there: nobody knows what it would have earned.
    Raises ValueError for scores that are not finite, and for shapes that differ.
    """
    if scores.shape != rewards.shape or not np.isfinite(scores).all():
        raise ValueError(f"scores: got {scores.shape}, needs finite ones of shape {rewards.shape}")
    utility = scores if prices is None else scores - cost_weight * prices
    utility = np.where(np.isnan(rewards), -np.inf, utility)
    best = utility == utility.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def earned(shares: Floats, cells: Floats) -> NDArray[np.float64]:
    """What routes earn (or cost) on each question, (N, C) and (N, C) -> (N,): the expectation over shared questions."""
    return np.where(shares > 0, shares * cells, 0.0).sum(axis=1, dtype=np.float64)


def route_shares(shares: Floats) -> NDArray[np.float64]:
    """The share of all questions that each assignment answers, (N, C) -> (C,)."""
    return shares.mean(axis=0, dtype=np.float64)


def regret(rewards_earned: Floats, rewards: Floats) -> NDArray[np.float64]:
    """What each question's best measured assignment would have earned more, (N,), never negative.

    r*(q) - r(q), the instantaneous regret of bandits (Lattimore and Szepesvari, Bandit Algorithms, 2020, chapter 4)
    against the per-query oracle instead of the best arm; so part of it is luck that no router can see.
    """
    return np.asarray(np.nanmax(rewards, axis=1) - rewards_earned, dtype=np.float64)
