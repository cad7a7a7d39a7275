"""Cross-entropy to the reward-augmented target distribution."""

from __future__ import annotations

import math

from torch import Tensor

from haps_search.learning.outcome_loss.known_cells import Cells, known_cells


def soft_targets(log_p: Tensor, rewards: Tensor, temperature: float) -> Tensor:
    """-mean_x sum_z q(z|x) log p(z|x) with q(z|x) proportional to exp(R(x, z) / temperature).

    The exponentiated-payoff target of reward-augmented maximum likelihood (Norouzi et al. 2016, eq. 2), here over
    assignments. Its limit, temperature 0, is the fine-tuning on best actions of HAPS (arXiv 2601.05903), with q
    uniform over the assignments that share the highest reward. Equal rewards pull p towards uniform; a single known
    cell moves nothing.
    """
    cells = known_cells(log_p, rewards)
    return -(_target(cells, temperature) * cells.log_p).sum() / cells.rows


def _target(cells: Cells, temperature: float) -> Tensor:
    if temperature > 0:
        return (cells.rewards / temperature).masked_fill(~cells.known, -math.inf).softmax(-1)
    best = ((cells.rewards == cells.best()) & cells.known).to(cells.log_p)
    return best / best.sum(-1, keepdim=True)
