"""Between the backbone's pooled states and the low level: standardised on training questions, some numbers left out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from haps_search.config.routing import PooledConfig

LEAST = 0.01
"""No number is divided by less than this share of the mean deviation: one that hardly varies says little."""


class LowInput(nn.Module):
    """x -> dropout((x - mean) / max(deviation, 0.01 * mean deviation)) on (n, H); as it is where nothing is asked."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: PooledConfig, width: int) -> None:
        super().__init__()
        self._standardises, self._dropout = config.standardised, config.dropout
        self.taken = not config.standardised
        self.register_buffer("mean", torch.zeros(width), persistent=False)
        self.register_buffer("deviation", torch.ones(width), persistent=False)

    @torch.no_grad()
    def take(self, states: Tensor) -> None:
        """Standardise from now on by the states (N, H) of training questions."""
        deviation = states.std(0, correction=0)
        self.mean = states.mean(0)
        self.deviation = deviation.clamp_min(max(LEAST * float(deviation.mean()), 1e-12))
        self.taken = True

    def forward(self, states: Tensor, noise: torch.Generator | None) -> Tensor:
        """`noise` says which numbers are left out; None leaves out none."""
        if self._standardises:
            states = (states - self.mean.to(states)) / self.deviation.to(states)
        if noise is None or not self._dropout:
            return states
        kept = torch.rand(states.shape, generator=noise) >= self._dropout
        return states * kept.to(states) / (1 - self._dropout)

    def forget(self) -> None:
        """As before `take`."""
        self.taken = not self._standardises

    def fitted(self) -> dict[str, Tensor]:
        return {"mean": self.mean.cpu(), "deviation": self.deviation.cpu()} if self._standardises else {}

    def refit(self, fitted: Mapping[str, Tensor]) -> None:
        """Raises ValueError for other names or shapes than its own."""
        own = self.fitted()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in fitted.items()}:
            raise ValueError(f"got {', '.join(fitted) or 'nothing'}, needs {', '.join(own) or 'nothing'}")
        if own:
            self.mean, self.deviation = (fitted[name].to(getattr(self, name)) for name in ("mean", "deviation"))
            self.taken = True
