"""Means of the columns of a table, where cells are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def column_means(cells: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Means over known cells, (N, M) -> (M,), NaN for a column without any."""
    known = ~np.isnan(cells)
    count = known.sum(axis=0)
    total = np.where(known, cells, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def group_means(rewards: NDArray[np.floating[Any]], groups: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Means per group, rewards (N, M) in groups (N,) -> (`count`, M).

    Where a group has no cell of a column, the column's mean over all; where the column has none, the lowest reward.
    """
    overall = column_means(rewards)
    means = np.tile(np.where(np.isnan(overall), np.nanmin(rewards), overall), (count, 1))
    for group in np.unique(groups):
        own = column_means(rewards[groups == group])
        means[group] = np.where(np.isnan(own), means[group], own)
    return means
