"""Keys and values with room for the text to come: a cache that grows by concatenation copies itself at every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


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


def _with_room(part: Tensor, room: int) -> Tensor:
    rows, heads, filled, width = part.shape
    whole = torch.empty((rows, heads, filled + room, width), dtype=part.dtype, device=part.device)
    whole[:, :, :filled] = part
    return whole
