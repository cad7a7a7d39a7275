"""The low-level router: from the pooled backbone to a candidate's LoRA weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from haps_search.config.routing import GeneratedLowLevel, StaticLowLevel
from haps_search.lora.adapter import bounded
from haps_search.types import AdapterLayout, LinearModule

Init = Literal["zero", "xavier"]


class ParameterGenerator(nn.Module):
    """gamma_m: pooled state (n, H) -> MLP -> flat adapter (n, P) of one candidate (paper, low-level router)."""

    def __init__(self, config: GeneratedLowLevel, width: int, layout: AdapterLayout) -> None:
        super().__init__()
        self._layout, self._leash = layout, _limits(config)
        blocks = _blocks(layout, config.sharing)
        order: list[nn.Module] = []
        for hidden in config.hidden:
            order += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self._scale = width**-0.5 if config.scale_output else None
        out = nn.Linear(width, sum(_size(layout.rank, block) for block in blocks))
        self.mlp = nn.Sequential(*order, out)
        if config.init == "xavier":
            self.mlp.apply(_xavier)
        else:
            _start_at_zero(out, layout.rank, blocks)
        self.register_buffer("_expand", _expansion(layout, config.sharing), persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        values = self.mlp(pooled) if self._scale is None else self._scaled(pooled, self._scale)
        expand = self.get_buffer("_expand")
        if expand.numel():
            values = values[:, expand]
        return bounded(self._layout, values, *self._leash)

    def _scaled(self, pooled: Tensor, scale: float) -> Tensor:
        out = self.mlp[-1]
        assert isinstance(out, nn.Linear)
        return scale * nn.functional.linear(self.mlp[:-1](pooled), out.weight) + out.bias


class StaticAdapter(nn.Module):
    """One trained adapter, whatever the question: a LoRA of the same budget that nobody generates."""

    def __init__(self, config: StaticLowLevel, layout: AdapterLayout) -> None:
        super().__init__()
        self._layout, self._leash = layout, _limits(config)
        self.values = nn.Parameter(_initial(layout.rank, layout.targets, config.init))

    def forward(self, pooled: Tensor) -> Tensor:
        # A copy: the optimiser moves the parameter in place, and an adapter that was handed out must stay.
        return bounded(self._layout, self.values.clone(), *self._leash).expand(len(pooled), -1)


def _limits(config: GeneratedLowLevel | StaticLowLevel) -> tuple[float | None, float | None]:
    return config.max_relative_norm, config.max_relative_spectral_norm


def _blocks(layout: AdapterLayout, sharing: str) -> list[LinearModule]:
    """The targets whose weights are generated: all, or the first of each kind where layers share."""
    if sharing == "per_layer":
        return list(layout.targets)
    first: dict[tuple[str, int, int], LinearModule] = {}
    for target in layout.targets:
        first.setdefault(_kind(target), target)
    return list(first.values())


def _kind(target: LinearModule) -> tuple[str, int, int]:
    return target.name.rsplit(".", 1)[-1], target.d_in, target.d_out


def _size(rank: int, target: LinearModule) -> int:
    return rank * (target.d_in + target.d_out)


def _expansion(layout: AdapterLayout, sharing: str) -> Tensor:
    """Index (P,) into the generated numbers; empty where every target has its own."""
    if sharing == "per_layer":
        return torch.empty(0, dtype=torch.long)
    start, where = 0, {}
    for block in _blocks(layout, sharing):
        where[_kind(block)] = torch.arange(start, start + _size(layout.rank, block))
        start += _size(layout.rank, block)
    return torch.cat([where[_kind(target)] for target in layout.targets])


def _initial(rank: int, targets: Sequence[LinearModule], init: Init) -> Tensor:
    parts = []
    for t in targets:
        a, b = torch.empty(rank, t.d_in), torch.zeros(t.d_out, rank)
        if init == "xavier":
            nn.init.xavier_uniform_(a)
            nn.init.xavier_uniform_(b)
        else:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))  # PEFT's own start for lora_A
        parts += [a.flatten(), b.flatten()]
    return torch.cat(parts)


def _start_at_zero(out: nn.Linear, rank: int, blocks: Sequence[LinearModule]) -> None:
    """B is zero for every question, A is PEFT's random start in the bias: the first step is the frozen model."""
    with torch.no_grad():
        out.bias.copy_(_initial(rank, blocks, "zero"))
        offset = 0
        for block in blocks:
            end = offset + _size(rank, block)
            out.weight[offset + rank * block.d_in : end] = 0.0
            offset = end


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
