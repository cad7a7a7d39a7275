"""Outcome tables made by hand, of which the right answer is known."""

from __future__ import annotations

import numpy as np

from haps_search.evaluation.references import Labelled


def clustered(questions: int = 90, assignments: int = 3, seed: int = 0) -> Labelled:
    """Questions in as many clusters as assignments, in turn; assignment k earns 1 in cluster k and 0 elsewhere.

    Assignment 0 is right once more than the others; the task is the cluster; costs ascend with the column.
    """
    rng = np.random.default_rng(seed)
    clusters = np.arange(questions) % assignments
    clusters[-1] = 0
    features = np.eye(assignments, 5)[clusters] + rng.normal(0, 0.05, (questions, 5))
    costs = np.tile(1.0 + np.arange(assignments), (questions, 1))
    tasks = tuple(f"task {k}" for k in clusters)
    return Labelled(features.astype(np.float32), tasks, np.eye(assignments)[clusters].astype(np.float32), costs)


def with_gaps(table: Labelled, share: float = 0.3, seed: int = 1) -> Labelled:
    """The same with missing cells, one left at least in every row."""
    rng = np.random.default_rng(seed)
    gone = rng.random(table.rewards.shape) < share
    gone[np.arange(len(table)), rng.integers(0, table.rewards.shape[1], len(table))] = False
    return Labelled(table.features, table.tasks, np.where(gone, np.nan, table.rewards), table.costs)


def four_folds(table: Labelled) -> np.ndarray:
    """Folds that hold every cluster."""
    return np.random.default_rng(3).integers(0, 4, len(table))
