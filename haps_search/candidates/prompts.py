"""Prompts and texts as tensors: padding, positions, and what prefill makes of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What rows have read, and written since: mask (n, S), which is right-aligned, logits (n, V) of the next token, the
    cache, and whether the row's prompt was known from before."""

    mask: Tensor
    logits: Tensor
    cache: Any
    known: tuple[bool, ...]


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (n, S)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids, mask


def pad_right(texts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (n, T)."""
    width = max(map(len, texts))
    ids = torch.tensor([[*t] + [pad_id] * (width - len(t)) for t in texts], dtype=torch.long, device=device)
    mask = torch.tensor([[True] * len(t) + [False] * (width - len(t)) for t in texts], device=device)
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """Position ids (n, S): padding does not count."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def stack_left(rows: Sequence[Tensor]) -> Tensor:
    """(n, ..., S, d) from rows (..., s, d), padded with zeros on the left."""
    width = max(row.shape[-2] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, 0, width - row.shape[-2], 0)) for row in rows])


def stack_right(rows: Sequence[Tensor]) -> Tensor:
    """(n, ..., T, d) from rows (..., t, d), padded with zeros on the right."""
    width = max(row.shape[-2] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, 0, 0, width - row.shape[-2])) for row in rows])
