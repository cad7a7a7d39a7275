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
