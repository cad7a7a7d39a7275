"""The low-level router: from the pooled backbone to a candidate's LoRA weights, part by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from haps_search.config.routing import BankLowLevel, GeneratedLowLevel, StaticLowLevel
from haps_search.lora.adapter import Limit, bounded, relative_norms, relative_spectral_norms
from haps_search.types import AdapterLayout, LinearModule

Init = Literal["zero", "xavier"]
SHARE = 0.9
"""Of the bounds, what a static adapter may take where another is its residual."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of n questions' adapters: numbers (n, P), or (P,) that all of them `share`; with `mix` (n, M) a shared
    bank (M, P). Parts stand residual first, and their updates add."""

    values: Tensor
    shares: bool = False
    mix: Tensor | None = None
    learns: bool = True

    @property
    def learnt(self) -> list[tuple[Tensor, bool]]:
        """Its tensors that gradients come back for, as `Adapter.learnt` has them, and whether questions share each."""
        if not self.learns:
            return []
        return [(self.values, self.shares), *([] if self.mix is None else [(self.mix, False)])]


class LowLevelModule(nn.Module):
    """Of one candidate; its parts' layout is the candidate's own."""

    def parts(self, pooled: Tensor) -> list[Part]:
        """Of questions' pooled states (n, H)."""
        raise NotImplementedError


class ParameterGenerator(LowLevelModule):
    """gamma_m: pooled state (n, H) -> MLP -> flat adapter (n, P) of one candidate (paper, low-level router)."""

    def __init__(self, config: GeneratedLowLevel, width: int, layout: AdapterLayout) -> None:
        super().__init__()
        self._layout, self._leash = layout, _limits(config)
        made = blocks(layout, config.sharing)
        order: list[nn.Module] = []
        for hidden in config.hidden:
            order += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self._scale = width**-0.5 if config.scale_output else None
        out = nn.Linear(width, sum(_size(layout.rank, block) for block in made))
        self.mlp = nn.Sequential(*order, out)
        if config.init == "xavier":
            self.mlp.apply(_xavier)
        else:
            _start_at_zero(out, layout.rank, made)
        self.register_buffer("_expand", _expansion(layout, config.sharing), persistent=False)

    def parts(self, pooled: Tensor) -> list[Part]:
        return [Part(self(pooled))]

    def forward(self, pooled: Tensor, leash: tuple[Limit, Limit] | None = None) -> Tensor:
        """(n, P), within the configuration's bounds, or others."""
        values = self.mlp(pooled) if self._scale is None else self._scaled(pooled, self._scale)
        expand = self.get_buffer("_expand")
        if expand.numel():
            values = values[:, expand]
        return bounded(self._layout, values, *(leash or self._leash))

    def _scaled(self, pooled: Tensor, scale: float) -> Tensor:
        out = self.mlp[-1]
        assert isinstance(out, nn.Linear)
        return scale * nn.functional.linear(self.mlp[:-1](pooled), out.weight) + out.bias


class StaticAdapter(LowLevelModule):
    """One trained adapter, whatever the question: a LoRA of the same budget that nobody generates."""

    def __init__(self, config: StaticLowLevel, layout: AdapterLayout) -> None:
        super().__init__()
        self._layout, self._leash = layout, _limits(config)
        self.values = nn.Parameter(_initial(layout.rank, layout.targets, config.init))

    def parts(self, pooled: Tensor) -> list[Part]:
        return [Part(self.now(), shares=True)]

    def now(self) -> Tensor:
        """(P,): a copy, since the optimiser moves the parameter in place, and an adapter that was handed out must
        stay."""
        return bounded(self._layout, self.values.clone(), *self._leash)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.now().expand(len(pooled), -1)


class ResidualAdapter(LowLevelModule):
    """What is generated for a question, on top of a static adapter."""

    def __init__(self, config: GeneratedLowLevel, width: int, layout: AdapterLayout) -> None:
        super().__init__()
        self._layout, self._limits, self._static_learns = layout, _limits(config), config.static_learns
        frobenius, spectral = (None if limit is None else SHARE * limit for limit in self._limits)
        static = StaticLowLevel(init=config.init, max_relative_norm=frobenius, max_relative_spectral_norm=spectral)
        self.generated = ParameterGenerator(config, width, layout)
        self.base = StaticAdapter(static, layout)

    def parts(self, pooled: Tensor) -> list[Part]:
        base = self.base.now()
        fixed = base.detach()
        norms = relative_norms, relative_spectral_norms
        frobenius, spectral = (
            None if limit is None else limit - norm(self._layout, fixed)
            for limit, norm in zip(self._limits, norms, strict=True)
        )
        own = Part(self.generated(pooled, (frobenius, spectral)))
        return [own, Part(base if self._static_learns else fixed, shares=True, learns=self._static_learns)]


class AdapterBank(LowLevelModule):
    """M adapters that all questions share, and how much of each a question takes."""

    def __init__(self, config: BankLowLevel, width: int, layout: AdapterLayout) -> None:
        super().__init__()
        self._layout, self._limits = layout, _limits(config)
        initial = [_initial(layout.rank, layout.targets, config.init) for _ in range(config.size)]
        self.values = nn.Parameter(torch.stack(initial))
        self.mix = nn.Linear(width, config.size)

    def parts(self, pooled: Tensor) -> list[Part]:
        values, mix = self.values.clone(), torch.softmax(self.mix(pooled), -1)
        return [Part(values, shares=True, mix=mix * self._within(values, mix))]

    def _within(self, values: Tensor, mix: Tensor) -> Tensor:
        """(n, 1): what a mixture's numbers are multiplied by, A and B alike, so that no update exceeds the bounds."""
        mixed = mix @ values
        norms = relative_norms, relative_spectral_norms
        factors = [
            (limit / norm(self._layout, mixed).clamp_min(limit)).amin(-1)
            for limit, norm in zip(self._limits, norms, strict=True)
            if limit is not None
        ]
        if not factors:
            return mix.new_ones(len(mix), 1)
        return torch.stack(factors).amin(0).sqrt().unsqueeze(-1)


def build_low_level(
    config: GeneratedLowLevel | BankLowLevel | StaticLowLevel, width: int, layout: AdapterLayout
) -> LowLevelModule:
    """The low level of one candidate, which reads pooled states of this width."""
    match config:
        case StaticLowLevel():
            return StaticAdapter(config, layout)
        case BankLowLevel():
            return AdapterBank(config, width, layout)
        case GeneratedLowLevel(residual_of=None):
            return ParameterGenerator(config, width, layout)
        case GeneratedLowLevel():
            return ResidualAdapter(config, width, layout)


def _limits(config: GeneratedLowLevel | BankLowLevel | StaticLowLevel) -> tuple[float | None, float | None]:
    return config.max_relative_norm, config.max_relative_spectral_norm


def blocks(layout: AdapterLayout, sharing: str) -> list[LinearModule]:
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
    for block in blocks(layout, sharing):
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
