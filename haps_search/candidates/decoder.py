"""What sampling and scoring need of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from haps_search.candidates.attention import Attention
from haps_search.candidates.fixed import FixedPlans
from haps_search.candidates.lying import ByRows, by_rows
from haps_search.candidates.prompt_cache import PromptCache
from haps_search.candidates.stack import Head, on_several_devices
from haps_search.candidates.suffix import last_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Decoder:
    """A model and what ends its texts; `layers` is its stack, None where it is not recognised. With `plans` it decodes
    in tensors of one shape."""

    model: PreTrainedModel
    layers: nn.ModuleList | None
    stop_ids: tuple[int, ...]
    pad_id: int
    prompts: PromptCache = field(default_factory=lambda: PromptCache(0))
    plans: FixedPlans | None = None

    def __post_init__(self) -> None:
        # Tried on tokens of their own, which nobody who watches a batch should see.
        _ = self.attends
        if self.layers is not None:
            _ = self.head

    @cached_property
    def attends(self) -> ByRows:
        return ByRows(False, False) if on_several_devices(self.model) else by_rows(self.model, self.pad_id)

    @cached_property
    def head(self) -> Head:
        return Head.of(self.model)

    @cached_property
    def attention(self) -> Attention | None:
        """The last layer's, where it can be left out."""
        return None if self.layers is None else last_attention(self.model, self.head, self.layers)

    def clear(self) -> None:
        """Give back the memory that only saves time."""
        self.prompts.clear()
        if self.plans is not None:
            self.plans.clear()
