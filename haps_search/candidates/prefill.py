"""Prefill: each distinct prompt is read once below the first patched layer, and above it once per adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from haps_search.candidates.activations import Activations, Kept
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.lying import lying, read_by
from haps_search.candidates.prompt_cache import Below, entries, joined
from haps_search.candidates.prompts import Prefilled, pad_left, pad_right, positions
from haps_search.candidates.row_attention import SharedLayer, shared
from haps_search.candidates.stack import on_several_devices, run_below, run_from
from haps_search.candidates.suffix import first_patched
from haps_search.lora.injection import injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.types import Adapter, AdapterLayout


def prefill(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    adapters: Sequence[Adapter | None],
    kept: Kept | None,
    split: int | None = None,
) -> Prefilled:
    """Read the prompts of a batch, per adapter from layer `split` on: the lowest that one of these patches, or one of
    those that share what is kept. Whoever keeps states must be watching already."""
    device = decoder.model.device
    first, owners = distinct(prompts, adapters)
    mask = pad_left(prompts, decoder.pad_id, device)[1]
    split = split_of(decoder.layers, adapters) if split is None else split
    read = [prompts[i] for i in first]
    rows = RowAdapters([adapters[i] for i in first], decoder.model.dtype, device)
    known = (False,) * len(prompts)
    if decoder.layers is None or split == 0:
        lower, (logits, cache) = None, _whole(decoder, read, rows)
    else:
        texts = list(dict.fromkeys(map(tuple, prompts)))
        place = {text: number for number, text in enumerate(texts)}
        of_texts = [place[tuple(prompt)] for prompt in prompts]
        states, lower, old = _below(decoder, decoder.layers, split, texts)
        known = tuple(old[text] for text in of_texts)
        logits, cache = _above(decoder, decoder.layers, split, read, states[[of_texts[i] for i in first]], rows)
    if kept is not None:
        kept.prefilled(owners, cache)
    _to_rows(decoder, cache, owners)
    if lower is not None:
        _to_rows(decoder, lower, of_texts)
        cache.layers[:split] = lower.layers[:split]
    return Prefilled(mask, logits if len(first) == len(owners) else logits[owners], cache, known)


def _to_rows(decoder: Decoder, cache: Any, owners: list[int]) -> None:
    """From a cache of prompts to one of rows, of which `owners` says whose prompt is which."""
    if owners == list(range(len(owners))):
        return
    if decoder.attends.shares:
        cache.layers = [shared(layer, owners) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    # Keys and values on several devices can be selected by an index on the CPU only.
    beside = torch.device("cpu") if on_several_devices(decoder.model) else decoder.model.device
    rows = torch.tensor(owners, device=beside)
    for layer in cache.layers:
        if not isinstance(layer, SharedLayer):
            layer.batch_select_indices(rows)


def split_of(layers: nn.ModuleList | None, adapters: Sequence[Adapter | None]) -> int:
    """The first layer that is read per adapter. Without adapters the last one is, for its logits."""
    lowest = first_patched(adapters)
    return 0 if layers is None else len(layers) - 1 if lowest is None else lowest


def _whole(decoder: Decoder, prompts: Sequence[Sequence[int]], rows: RowAdapters) -> tuple[Tensor, Any]:
    """Logits (n, V) of what follows, and the cache of all layers."""
    lie = lying(prompts, decoder.pad_id, decoder.model.device, decoder.attends.packs)
    with injected(decoder.model, rows, lie.lengths):
        return read_by(decoder.model, lie)


def _above(
    decoder: Decoder,
    layers: nn.ModuleList,
    split: int,
    prompts: Sequence[Sequence[int]],
    states: Tensor,
    rows: RowAdapters,
) -> tuple[Tensor, Any]:
    """The same from the states (n, S', H) that enter layer `split`; the cache of those from there on."""
    lie = lying(prompts, decoder.pad_id, states.device, decoder.attends.packs)
    entering = lie.entering(states[:, -max(map(len, prompts)) :])
    with lie.reading(), injected(decoder.model, rows, lie.lengths):
        hidden, cache = run_from(decoder.head, layers, split, entering, **lie.places())
    return decoder.head.logits(lie.last(hidden))[:, -1], lie.filled(cache, decoder.model.config)


def _below(
    decoder: Decoder, layers: nn.ModuleList, split: int, texts: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Any, list[bool]]:
    """States (u, S, H), the cache below `split`, and which of the u texts were known."""
    found: dict[tuple[int, ...], Below] = {}
    if decoder.prompts.budget:
        found = {text: below for text in texts if (below := decoder.prompts.get((split, text))) is not None}
    known, new = [text in found for text in texts], [text for text in texts if text not in found]
    if new:
        lie = lying(new, decoder.pad_id, decoder.model.device, decoder.attends.packs)
        with lie.reading():
            states, cache = run_below(
                decoder.head, layers, split,
                **lie.tokens, **lie.places(),
            )  # fmt: skip
        states, cache = lie.padded(states), lie.filled(cache, decoder.model.config)
        apart = entries(states, cache, split, list(map(len, new))) if decoder.prompts.budget else None
        if apart is None:
            return states, cache, known
        found |= dict(zip(new, apart, strict=True))
        for text, below in zip(new, apart, strict=True):
            decoder.prompts.put((split, text), below)
    return *joined([found[text] for text in texts], decoder.model.config), known


@torch.no_grad()
def recomputed(
    decoder: Decoder,
    layers: nn.ModuleList,
    first: int,
    prompts: Sequence[tuple[int, ...]],
    completions: Sequence[tuple[int, ...]],
    tail: bool,
) -> list[Activations]:
    """What enters layer `first` > 0, from token ids alone: given completions are fed at once, and each distinct prompt
    is read once. `tail`: the last layer is the first, and its keys and values may stand in for the prompt.
    """
    texts = list(dict.fromkeys(prompts))
    place = {text: number for number, text in enumerate(texts)}
    kept, owners = Kept(first), [place[prompt] for prompt in prompts]
    kept.reads(range(len(prompts)))
    read, cache, _ = _below(decoder, layers, first, texts)
    kept.add(read)
    above = None
    if tail:
        mask = pad_left(texts, decoder.pad_id, decoder.model.device)[1]
        inputs = {"attention_mask": mask, "position_ids": positions(mask), "use_cache": True}
        above = run_from(decoder.head, layers, first, read, **inputs)[1]
    kept.prefilled(owners, above)
    fed = [completion[:-1] for completion in completions]
    if any(fed):
        rows = torch.tensor(owners, device=read.device)
        cache.batch_select_indices(rows)
        ids, mask = pad_right(fed, decoder.pad_id, decoder.model.device)
        mask = torch.cat([pad_left(prompts, decoder.pad_id, decoder.model.device)[1], mask], -1)
        states, _ = run_below(
            decoder.head, layers, first, input_ids=ids, attention_mask=mask,
            position_ids=positions(mask)[:, -ids.shape[1] :], past_key_values=cache, use_cache=True,
        )  # fmt: skip
        kept.writes(torch.arange(len(prompts), device=read.device))
        kept.add(states)
    return kept.activations(range(len(prompts)), prompts, completions, [tail] * len(prompts))


def distinct(prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None]) -> tuple[list[int], list[int]]:
    """Rows that differ in prompt or adapter, and for every row the place of its equal among them.

    Adapters are told apart by their parts' layouts and the identity of their numbers: the episodes of a question share
    one object.
    """
    seen: dict[tuple[tuple[int, ...], tuple[tuple[AdapterLayout, int, int], ...]], int] = {}
    first: list[int] = []
    index: list[int] = []
    for row, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        parts = () if adapter is None else adapter.parts
        key = tuple(prompt), tuple((part.layout, id(part.values), id(part.mix)) for part in parts)
        if key not in seen:
            seen[key] = len(first)
            first.append(row)
        index.append(seen[key])
    return first, index
