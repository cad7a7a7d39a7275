"""What speaking needs of a model, and the padding of its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from haps_search.candidates.prompt_cache import PromptCache
from haps_search.candidates.stack import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from haps_search.candidates.fixed import FixedPlans


@dataclass(frozen=True)
class Decoder:
    """A model and what ends its texts; `layers` is its stack, None where it is not recognised. With `plans` it speaks
    in tensors of one shape."""

    model: PreTrainedModel
    layers: nn.ModuleList | None
    stop_ids: tuple[int, ...]
    pad_id: int
    prompts: PromptCache = field(default_factory=lambda: PromptCache(0))
    plans: FixedPlans | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            _ = self.head  # tried on tokens of its own, which nobody who watches a batch should see

    @cached_property
    def head(self) -> Head:
        return Head.of(self.model)

    def clear(self) -> None:
        """Give back the memory that only saves time."""
        self.prompts.clear()
        if self.plans is not None:
            self.plans.clear()


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (n, S)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """Position ids (n, S): padding does not count."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)
