"""Differences of log p as predictions of differences of reward."""

from __future__ import annotations

from torch import Tensor

from haps_search.learning.outcome_loss.known_cells import Cells, known_cells


def squared_error(log_p: Tensor, rewards: Tensor, temperature: float) -> Tensor:
    """mean_x 1/C_x sum_z ( temperature * (log p(z|x) - mean_z log p) - (R(x, z) - mean_z R) )^2 over the C_x known
    cells of a row.

    Least squares on what a choice turns on, the differences within a question: the part of a score that all
    assignments share (its difficulty) is neither predicted nor paid for. At the minimum `temperature * log p` is the
    expected reward up to a constant of the question, so a price can be set against it. Equal rewards pull p towards
    uniform; a single known cell contributes 0.
    """
    cells = known_cells(log_p, rewards)
    error = temperature * _centred(cells.log_p, cells) - _centred(cells.rewards, cells)
    return (error.square().sum(-1) / cells.known.sum(-1)).sum() / cells.rows


def _centred(values: Tensor, cells: Cells) -> Tensor:
    """(m, C), less each row's mean over its known cells; 0 at missing ones."""
    mean = values.sum(-1, keepdim=True) / cells.known.sum(-1, keepdim=True)
    return (values - mean) * cells.known
