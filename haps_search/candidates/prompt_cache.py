"""What the frozen layers below the patched ones made of a prompt, kept across steps and trials.

No adapter reaches these layers, so whoever asks the same prompt finds the same keys, values and states. Entries are
free of padding; the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from haps_search.candidates.prompts import Prefilled, stack_left
from haps_search.candidates.row_attention import SharedLayer

_PLAIN = DynamicLayer, DynamicSlidingWindowLayer
PromptKey = tuple[int, tuple[int, ...]]
"""The first patched layer, and the prompt."""


@dataclass(frozen=True, slots=True)
class Below:
    """One prompt of s tokens below layer `first`: states (s, H) that enter it, and per layer below it keys and values
    (heads, s or the window's length, d)."""

    states: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def size(self) -> int:
        """Bytes."""
        tensors = [self.states, *(t for pair in self.layers for t in pair)]
        return sum(t.numel() * t.element_size() for t in tensors)


class PromptCache:
    """Entries up to `budget` bytes, 0 for none."""

    def __init__(self, budget: int) -> None:
        self.budget, self.size = budget, 0
        self._entries: OrderedDict[PromptKey, Below] = OrderedDict()

    def get(self, key: PromptKey) -> Below | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: PromptKey, below: Below) -> None:
        if below.size > self.budget:
            return
        self._forget(self._entries.pop(key, None))
        self._entries[key] = below
        self.size += below.size
        while self.size > self.budget:
            self._forget(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0

    def _forget(self, below: Below | None) -> None:
        self.size -= below.size if below is not None else 0


def entries(states: Tensor, cache: Any, first: int, lengths: Sequence[int]) -> list[Below] | None:
    """Rows of a batch that was padded on the left, apart; None where a layer keeps anything but keys and values."""
    layers = cache.layers[:first]
    if any(type(layer) not in _PLAIN for layer in layers):
        return None
    return [
        Below(
            states[row, -length:].clone(),
            tuple((layer.keys[row, :, -length:].clone(), layer.values[row, :, -length:].clone()) for layer in layers),
        )
        for row, length in enumerate(lengths)
    ]


def joined(found: Sequence[Below], config: Any) -> tuple[Tensor, Any]:
    """Entries as one batch, padded on the left: states (n, S, H), and a cache filled below the first patched layer."""
    states, cache = stack_left([below.states for below in found]), DynamicCache(config=config)
    for number in range(len(found[0].layers)):
        keys, values = (stack_left([below.layers[number][i] for below in found]) for i in (0, 1))
        fill(cache.layers[number], keys, values, states.shape[1])
    return states, cache


def fill(layer: Any, keys: Tensor, values: Tensor, tokens: int) -> None:
    """Put keys and values (n, heads, S or the window's length, d) of so many tokens into an empty layer of a cache."""
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = tokens


def side_by_side(one: Prefilled, other: Prefilled, config: Any) -> Prefilled:
    """The rows of both as one batch, in as many columns as the longest of them takes; of caches that `may_join`."""
    parts = one, other
    width = max(int(part.mask.sum(-1).max()) for part in parts)
    mask = torch.cat([_columns(part.mask.unsqueeze(-1), width).squeeze(-1) for part in parts])
    cache = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        held = [(each.keys, each.values) for each in (part.cache.layers[number] for part in parts)]
        room = min(width, max(keys.shape[-2] for keys, _ in held))
        keys, values = (torch.cat([_columns(part, room) for part in both]) for both in zip(*held, strict=True))
        fill(layer, keys, values, width)
    return Prefilled(mask, torch.cat([part.logits for part in parts]), cache, (*one.known, *other.known))


def may_join(cache: Any) -> bool:
    """Whether a cache holds keys and values and nothing else."""
    return all(type(layer) in (*_PLAIN, SharedLayer) for layer in cache.layers)


def _columns(part: Tensor, width: int) -> Tensor:
    """The last columns of (..., S, d), with zeros on the left where there are fewer."""
    last = part[..., -width:, :]
    return nn.functional.pad(last, (0, 0, width - last.shape[-2], 0))
