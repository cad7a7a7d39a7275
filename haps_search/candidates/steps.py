"""One decoding step after the other, in tensors that grow or in tensors of one shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from haps_search.candidates.decoder import Decoder, positions
from haps_search.candidates.read import Prompts
from haps_search.candidates.roomy import give_room, without_room
from haps_search.candidates.suffix import Kept
from haps_search.lora.injection import RowDeltas, patched


class Steps(Protocol):
    """A batch that is being spoken."""

    def logits(self, token: Tensor) -> Tensor:
        """Feed one token (n,) per row; logits (n, V) of the next."""
        ...

    @property
    def cache(self) -> Any:
        """Keys and values of all positions fed."""
        ...


@contextmanager
def stepping(decoder: Decoder, heard: Prompts, deltas: RowDeltas, steps: int, kept: Kept | None) -> Iterator[Steps]:
    """While open, every row goes on under its own delta, for at most `steps` tokens."""
    stacks, at = deltas.stacks(), positions(heard.mask)[:, -1:]
    if decoder.plans is not None:
        yield decoder.plans.start(heard, at, steps, stacks, kept)
        return
    give_room(heard.cache, steps)
    with patched(decoder.model, stacks):
        yield _Growing(decoder, heard, at)


class _Growing:
    def __init__(self, decoder: Decoder, heard: Prompts, at: Tensor) -> None:
        self._model, self._cache = decoder.model, heard.cache
        self._mask, self._at = heard.mask, at

    def logits(self, token: Tensor) -> Tensor:
        self._at = self._at + 1
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], -1)
        logits: Tensor = self._model(
            input_ids=token.unsqueeze(-1), attention_mask=self._mask, position_ids=self._at,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits

    @property
    def cache(self) -> Any:
        return without_room(self._cache)
