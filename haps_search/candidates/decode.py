"""One decoding step after the other, in tensors that grow or in tensors of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from haps_search.candidates.activations import Kept
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.fixed import bucket
from haps_search.candidates.prompts import Prefilled, positions
from haps_search.candidates.row_attention import SharedLayer
from haps_search.candidates.stack import on_several_devices
from haps_search.lora.injection import Update, injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.types import Adapter


class RoomyLayer(DynamicLayer):
    """A layer of a cache whose `keys` and `values` (n, heads, S, d) are the filled part of larger tensors."""

    def __init__(self, grown: Any, room: int) -> None:
        """Take over what `grown` holds; `room` more positions fit."""
        super().__init__()
        self.lazy_initialization(grown.keys, grown.values)
        self._whole = _with_room(grown.keys, room), _with_room(grown.values, room)
        self._filled = grown.keys.shape[-2]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self._filled = self._filled, self._filled + key_states.shape[-2]
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[:, :, start : self._filled] = states
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        keys, values = self._whole
        self._whole = keys[indices], values[indices]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (whole[:, :, : self._filled] for whole in self._whole)
        self.keys, self.values = keys, values
        return keys, values


def give_room(cache: Any, room: int) -> None:
    """Every layer that keeps all positions gets room for so many more; others (sliding windows) stay as they are."""
    cache.layers = [RoomyLayer(layer, room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    for layer in cache.layers:
        if isinstance(layer, SharedLayer):
            layer.own = RoomyLayer(layer.own, room)


def _with_room(part: Tensor, room: int) -> Tensor:
    rows, heads, filled, width = part.shape
    whole = torch.empty((rows, heads, filled + room, width), dtype=part.dtype, device=part.device)
    whole[:, :, :filled] = part
    return whole


class Steps(Protocol):
    """A batch that is being decoded."""

    def logits(self, token: Tensor) -> Tensor:
        """Feed one token (n,) per row; logits (n, V) of the next."""
        ...

    def keep(self, rows: Tensor) -> bool:
        """Go on with the rows that this mask (n,) names; False where all are kept."""
        ...

    def left(self, rows: Tensor, logits: Tensor) -> Prefilled:
        """These rows, named by a mask (n,), as they would be had all been read at once; `logits` (n, V) are those of
        the next token."""
        ...


@contextmanager
def stepping(
    decoder: Decoder, read: Prefilled, adapters: Sequence[Adapter | None], steps: int, kept: Kept | None
) -> Iterator[Steps]:
    """While open, every row goes on under its own adapter, for at most `steps` tokens."""
    model, at = decoder.model, positions(read.mask)[:, -1:]
    if decoder.plans is not None:
        # What fills a plan up has an adapter that is there already.
        under = [*adapters, *[adapters[-1]] * (bucket(len(adapters)) - len(adapters))]
        stacks = RowAdapters(under, model.dtype, model.device).stacks()
        plan = decoder.plans.start(read, at, steps, stacks, kept)
        try:
            yield plan
        finally:
            plan.end()
        return
    give_room(read.cache, steps)
    with injected(model, RowAdapters(adapters, model.dtype, model.device)) as updates:
        yield _Growing(decoder, read, at, updates)


class _Growing:
    def __init__(self, decoder: Decoder, read: Prefilled, at: Tensor, updates: Sequence[Update]) -> None:
        self._model, self._cache = decoder.model, read.cache
        self._mask, self._at, self._updates = read.mask, at, updates

    def logits(self, token: Tensor) -> Tensor:
        self._at = self._at + 1
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], -1)
        logits: Tensor = self._model(
            input_ids=token.unsqueeze(-1), attention_mask=self._mask, position_ids=self._at,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits

    def keep(self, rows: Tensor) -> bool:
        self._mask, self._at = self._mask[rows], self._at[rows]
        self._select(rows)
        for update in self._updates:
            update.keep(rows)
        return True

    def left(self, rows: Tensor, logits: Tensor) -> Prefilled:
        self._select(rows)
        return Prefilled(self._mask[rows], logits[rows], self._cache, ())

    def _select(self, rows: Tensor) -> None:
        # Keys and values on several devices can be selected by an index on the CPU only.
        index = rows.nonzero().squeeze(-1)
        if len(index) < len(rows):
            self._cache.batch_select_indices(index.cpu() if on_several_devices(self._model) else index)
