"""The known cells of rows of an outcome table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """The m rows of n that have a known cell. At missing cells `log_p` and `rewards` are 0 and `known` is False."""

    log_p: Tensor
    """(m, C), renormalised over each row's known cells."""
    rewards: Tensor
    """(m, C)."""
    known: Tensor
    """(m, C), bool."""
    rows: int
    """n, what sums over rows are divided by."""

    def best(self) -> Tensor:
        """The highest reward of each row, (m, 1)."""
        return self.rewards.masked_fill(~self.known, -math.inf).amax(-1, keepdim=True)


def known_cells(log_p: Tensor, rewards: Tensor) -> Cells:
    """Cells of log-probabilities (n, C) and rewards (n, C), NaN where missing."""
    known = ~rewards.isnan()
    measured = known.any(-1)
    log_p, rewards, known = log_p[measured], rewards[measured], known[measured]
    log_p = log_p.masked_fill(~known, -math.inf)
    log_p = (log_p - log_p.logsumexp(-1, keepdim=True)).masked_fill(~known, 0.0)
    return Cells(log_p, rewards.masked_fill(~known, 0.0), known, len(measured))
