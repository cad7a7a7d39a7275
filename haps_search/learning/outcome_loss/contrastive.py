"""The good assignments against all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from haps_search.learning.outcome_loss.known_cells import known_cells


def contrastive(log_p: Tensor, rewards: Tensor, margin: float) -> Tensor:
    """mean_x mean over i in G of -log( p_i / (p_i + sum over j not in G of p_j) ), G = {i: R_i >= max R - margin}.

    InfoNCE (van den Oord et al. 2018) with log p as score; each good assignment stands against the others alone, so
    the good ones do not compete. Where all known cells are good, and where one is known, the row contributes 0.
    """
    cells = known_cells(log_p, rewards)
    good = (cells.rewards >= cells.best() - margin) & cells.known
    others = cells.log_p.masked_fill(good | ~cells.known, -math.inf)
    # A row without others would be all -inf, whose gradient is NaN; it has nothing to learn from.
    contested = (cells.known & ~good).any(-1)
    score, good = cells.log_p[contested], good[contested]
    against = torch.logaddexp(score, others[contested].logsumexp(-1, keepdim=True))
    loss = ((against - score) * good).sum(-1) / good.sum(-1)
    return loss.sum() / cells.rows
