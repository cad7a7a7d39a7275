"""The distribution a token is drawn from: temperature, truncation, and the draw by the request's own seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from haps_search.types import Distribution, Sampling


class Policy:
    """What a batch's rows are drawn from as tensors. Rows differ freely."""

    def __init__(
        self, distributions: Sequence[Distribution], device: torch.device, greedy: Sequence[bool] = ()
    ) -> None:
        """`greedy` rows take the likeliest token and report where their distribution has it."""
        self.greedy = torch.tensor(list(greedy), dtype=torch.bool, device=device)
        self._any_greedy = any(greedy)
        temperatures = [d.temperature for d in distributions]
        self.temperature = torch.tensor(temperatures, dtype=torch.float64, device=device)
        self.top_k = [d.top_k for d in distributions]
        self.top_p = [d.top_p for d in distributions]
        self._truncates = any(self.top_k) or any(p < 1.0 for p in self.top_p)

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> Policy:
        return cls([s.distribution for s in samplings], device, [s.greedy for s in samplings])

    def tempered(self, logits: Tensor) -> Tensor:
        """Log-probabilities (n, ..., V) of the whole vocabulary at each row's temperature, float32 at least."""
        scale = self.temperature.view(-1, *[1] * (logits.dim() - 1))
        precise = logits.to(torch.promote_types(torch.float32, logits.dtype))
        return torch.log_softmax(precise / scale.to(precise.dtype), -1)

    def log_probabilities(self, tempered: Tensor, keep: Tensor | None = None) -> Tensor:
        """The sampled-from log-probabilities (n, ..., V): truncated, renormalised.

        `keep` (n, ..., 1) names tokens that stay whatever rounding says: those already drawn.
        """
        if not self._truncates:
            return tempered
        cut = torch.stack([self._cut(row, k, p) for row, k, p in zip(tempered, self.top_k, self.top_p, strict=True)])
        if keep is not None:
            cut = cut.scatter(-1, keep, False)
        return torch.log_softmax(tempered.masked_fill(cut, float("-inf")), -1)

    @staticmethod
    def _cut(log_p: Tensor, top_k: int, top_p: float) -> Tensor:
        order = log_p.detach().argsort(dim=-1, descending=True, stable=True)
        sorted_p = log_p.detach().gather(-1, order).exp()
        # A rounded cumulative sum reaches 1 before the tail does, so top_p 1 is not left to it.
        drop = (sorted_p.cumsum(-1) - sorted_p) >= (top_p if top_p < 1.0 else float("inf"))
        if top_k:
            drop[..., top_k:] = True
        return torch.zeros_like(drop).scatter(-1, order, drop)

    def draw(self, log_p: Tensor, uniform: Tensor) -> Tensor:
        """Token ids (n,) from log-probabilities (n, V): the inverse of the cumulative sum at `uniform` (n,)."""
        # A sum over a large vocabulary needs double precision, its terms do not.
        cumulative = log_p.exp().cumsum(-1, dtype=torch.float64)
        point = uniform.unsqueeze(-1) * cumulative[:, -1:]
        sampled = torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp_max(log_p.shape[-1] - 1)
        return torch.where(self.greedy, log_p.argmax(-1), sampled) if self._any_greedy else sampled


def uniforms(samplings: Sequence[Sampling], steps: int) -> Tensor:
    """(n, steps) numbers in [0, 1), each row from its request's own seed."""
    rows = []
    for sampling in samplings:
        generator = torch.Generator().manual_seed(sampling.seed)
        rows.append(torch.rand(steps, dtype=torch.float64, generator=generator))
    return torch.stack(rows)
