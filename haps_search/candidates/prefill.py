"""Prefill: each distinct prompt is read once below the first patched layer, and above it once per adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from haps_search.candidates.decoder import Decoder, pad_left, positions
from haps_search.candidates.prompt_cache import Below, entries, joined
from haps_search.candidates.stack import on_several_devices, run_below, run_from
from haps_search.candidates.suffix import Kept, first_patched
from haps_search.lora.injection import RowAdapters, injected
from haps_search.types import Adapter, AdapterLayout


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts as read, a row per request: ids and mask (n, S), logits (n, V) of the first token, the cache, and
    whether the row's prompt was known from before."""

    ids: Tensor
    mask: Tensor
    logits: Tensor
    cache: Any
    known: tuple[bool, ...]


def prefill(
    decoder: Decoder, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None], kept: Kept | None
) -> Prompts:
    """Read the prompts of a batch. Whoever keeps states for a replay must be watching already."""
    device = decoder.model.device
    first, index = distinct(prompts, adapters)
    ids, mask = pad_left(prompts, decoder.pad_id, device)
    split = _split(decoder.layers, adapters)
    # Keys and values on several devices can be selected by an index on the CPU only.
    beside = torch.device("cpu") if on_several_devices(decoder.model) else device
    spread = _Spread(first, torch.tensor(index, device=beside), kept)
    if decoder.layers is None or split == 0:
        rows = RowAdapters([adapters[i] for i in first], decoder.model.dtype, device)
        logits, cache = spread.over(*_whole(decoder, ids[first], mask[first], rows))
        return Prompts(ids, mask, logits, cache, (False,) * len(prompts))
    return _in_two(decoder, decoder.layers, split, prompts, adapters, ids, mask, spread)


@dataclass(frozen=True, slots=True)
class _Spread:
    """From rows that differ in prompt or adapter to the rows of the batch."""

    first: list[int]
    index: Tensor
    kept: Kept | None

    def over(self, logits: Tensor, cache: Any) -> tuple[Tensor, Any]:
        if len(self.first) == len(self.index):
            return logits, cache
        cache.batch_select_indices(self.index)
        if self.kept is not None:
            self.kept.select(self.index)
        return logits[self.index], cache


def _split(layers: nn.ModuleList | None, adapters: Sequence[Adapter | None]) -> int:
    """The first layer that is read per adapter. Without adapters the last one is, for its logits."""
    lowest = first_patched(adapters)
    return 0 if layers is None else len(layers) - 1 if lowest is None else lowest


def _whole(decoder: Decoder, ids: Tensor, mask: Tensor, rows: RowAdapters) -> tuple[Tensor, Any]:
    model = decoder.model
    with injected(model, rows):
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    return out.logits[:, -1], out.past_key_values


def _in_two(
    decoder: Decoder,
    layers: nn.ModuleList,
    split: int,
    prompts: Sequence[Sequence[int]],
    adapters: Sequence[Adapter | None],
    ids: Tensor,
    mask: Tensor,
    spread: _Spread,
) -> Prompts:
    texts = list(dict.fromkeys(map(tuple, prompts)))
    place = {text: number for number, text in enumerate(texts)}
    rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=ids.device)
    states, lower, known = _below(decoder, layers, split, texts)
    first = spread.first
    with injected(decoder.model, RowAdapters([adapters[i] for i in first], decoder.model.dtype, ids.device)):
        hidden, cache = run_from(
            decoder.head, layers, split, states[rows[first]],
            attention_mask=mask[first], position_ids=positions(mask[first]), use_cache=True,
        )  # fmt: skip
    logits, cache = spread.over(decoder.head.logits(hidden[:, -1:])[:, -1], cache)
    lower.batch_select_indices(rows)
    cache.layers[:split] = lower.layers[:split]
    return Prompts(ids, mask, logits, cache, tuple(known[place[tuple(prompt)]] for prompt in prompts))


def _below(
    decoder: Decoder, layers: nn.ModuleList, split: int, texts: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Any, list[bool]]:
    """States (u, S, H), the cache below `split`, and which of the u texts were known."""
    found: dict[tuple[int, ...], Below] = {}
    if decoder.prompts.budget:
        found = {text: below for text in texts if (below := decoder.prompts.get((split, text))) is not None}
    known, new = [text in found for text in texts], [text for text in texts if text not in found]
    if new:
        ids, mask = pad_left(new, decoder.pad_id, decoder.model.device)
        states, cache = run_below(
            decoder.head, layers, split,
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True,
        )  # fmt: skip
        apart = entries(states, cache, split, list(map(len, new))) if decoder.prompts.budget else None
        if apart is None:
            return states, cache, known
        found |= dict(zip(new, apart, strict=True))
        for text, below in zip(new, apart, strict=True):
            decoder.prompts.put((split, text), below)
    return *joined([found[text] for text in texts], decoder.model.config), known


def distinct(prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None]) -> tuple[list[int], list[int]]:
    """Rows that differ in prompt or adapter, and for every row the place of its equal among them.

    Adapters are told apart by layout and the identity of their numbers: the episodes of a question share one object.
    """
    seen: dict[tuple[tuple[int, ...], tuple[int, AdapterLayout] | None], int] = {}
    first: list[int] = []
    index: list[int] = []
    for row, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        key = tuple(prompt), None if adapter is None else (id(adapter.values), adapter.layout)
        if key not in seen:
            seen[key] = len(first)
            first.append(row)
        index.append(seen[key])
    return first, index
