"""Means over questions and over tasks, and what they gain on a single assignment and leave to the oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from haps_search.evaluation.routing_metrics.cells import Floats


def micro_mean(values: Floats) -> float:
    """The mean over questions, (N,): large tasks count for more."""
    return float(np.mean(values))


def macro_mean(values: Floats, tasks: Sequence[str] | NDArray[np.intp]) -> float:
    """The mean over tasks of the mean over each task's questions, (N,): every task counts alike.

    `tasks` are names, or numbers that stand for them.
    """
    _, task = np.unique(tasks, return_inverse=True)
    return float(np.mean(np.bincount(task, weights=values) / np.bincount(task)))


def gap_closed(router: float, best_single: float, oracle: float) -> float:
    """(router - best single) / (oracle - best single): 0 is no better than one assignment, 1 the per-query oracle.

    RouteLLM's performance gap recovered (arXiv 2406.18665) with the best single assignment for its weak
    model and the oracle for its strong one. NaN where the oracle gains nothing, so that there is no gap to close.
    """
    gap = oracle - best_single
    return (router - best_single) / gap if gap > 0 else math.nan


def gain_at_best(router: float, best_single: float) -> float:
    """Gain@B of LLMRouterBench (arXiv 2601.07206): router / best single - 1, each a macro mean.

    There the best single is known in hindsight; give it such a one where figures are to be compared. NaN where the
    best single earns nothing.
    """
    return router / best_single - 1 if best_single > 0 else math.nan


def gap_at_oracle(router: float, oracle: float) -> float:
    """Gap@O of LLMRouterBench (arXiv 2601.07206): 1 - router / oracle, each a macro mean; 0 is the oracle itself.

    NaN where the oracle earns nothing.
    """
    return 1 - router / oracle if oracle > 0 else math.nan
