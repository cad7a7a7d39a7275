"""Minus the expected reward."""

from __future__ import annotations

from torch import Tensor

from haps_search.learning.outcome_loss.known_cells import known_cells


def expected_reward(log_p: Tensor, rewards: Tensor) -> Tensor:
    """-mean_x sum_z p(z|x) R(x, z): the policy gradient's objective, with the expectation taken exactly.

    Equal rewards, or a single known cell, give a constant: the row moves nothing.
    """
    cells = known_cells(log_p, rewards)
    return -(cells.log_p.exp() * cells.rewards).sum() / cells.rows
