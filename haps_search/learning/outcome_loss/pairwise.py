"""Which of two assignments is better, weighted by how much."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from haps_search.learning.outcome_loss.known_cells import known_cells


def pairwise(log_p: Tensor, rewards: Tensor) -> Tensor:
    """mean_x 1/pairs sum over pairs with R_i > R_j of (R_i - R_j) * -log sigmoid(log p_i - log p_j).

    Bradley and Terry's (1952) model of comparisons with log p as strength, as RankNet trains it (Burges et al.
    2005). Pairs are counted over all known cells, equal ones too, so that a row weighs by how far its rewards
    differ. Equal rewards, or a single known cell, contribute 0.
    """
    cells = known_cells(log_p, rewards)
    both = cells.known.unsqueeze(-1) & cells.known.unsqueeze(-2)
    gain = (cells.rewards.unsqueeze(-1) - cells.rewards.unsqueeze(-2)).clamp_min(0.0) * both
    surprise = softplus(cells.log_p.unsqueeze(-2) - cells.log_p.unsqueeze(-1))
    count = cells.known.sum(-1)
    pairs = (count * (count - 1) / 2).clamp_min(1.0)
    return ((gain * surprise).sum((-1, -2)) / pairs).sum() / cells.rows
