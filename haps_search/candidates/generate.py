"""Batched decoding with a key-value cache, every row under its own delta and seed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from haps_search.candidates.policy import Policy, uniforms
from haps_search.candidates.suffix import Kept, keeping
from haps_search.lora.injection import RowDeltas, injected
from haps_search.types import Delta, DeltaLayout, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Generated:
    """Prompts padded left to one column, where all texts start, and texts padded right.

    `prompt`, `prompt_mask` are (n, S); `tokens`, `token_mask` are (n, T), end tokens included;
    `log_likelihood` is (n,).
    """

    prompt: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    token_mask: Tensor
    log_likelihood: Tensor

    def token_ids(self, row: int) -> tuple[int, ...]:
        return tuple(self.tokens[row][self.token_mask[row]].tolist())


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model and what ends its texts; `layers` is its stack, None where it is not recognised."""

    model: PreTrainedModel
    layers: nn.ModuleList | None
    stop_ids: tuple[int, ...]
    pad_id: int


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (n, S)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """Position ids (n, S): padding does not count."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    deltas: Sequence[Delta | None],
    kept: Kept | None = None,
) -> Generated:
    """Draw one text per prompt until an end token or the row's own `max_new_tokens`.

    A prompt that several rows read under the same delta is read once. With `kept`, hidden states for a replay
    are collected into it.
    """
    model = decoder.model
    device = model.device
    first, index = distinct(prompts, deltas)
    prompt, prompt_mask = pad_left(prompts, decoder.pad_id, device)
    limits = torch.tensor([s.max_new_tokens for s in samplings], device=device)
    steps = int(limits.max())
    policy, uniform = Policy(samplings, device), uniforms(samplings, steps).to(device)
    stops = torch.tensor(list(decoder.stop_ids), device=device)

    with _watched(decoder, kept):
        logits, cache = _read(model, prompt[first], prompt_mask[first], [deltas[i] for i in first])
        if len(first) < len(prompts):
            rows = torch.tensor(index, device=device)
            logits = logits[rows]
            cache.batch_select_indices(rows)
            if kept is not None:
                kept.select(rows)
        alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
        total = torch.zeros(len(prompts), dtype=torch.float64, device=device)
        mask, at = prompt_mask, positions(prompt_mask)[:, -1:]
        tokens: list[Tensor] = []
        token_mask: list[Tensor] = []
        with injected(model, RowDeltas(deltas, model.dtype, device)):
            while True:
                log_p = policy.log_probabilities(policy.tempered(logits))
                token = torch.where(alive, policy.draw(log_p, uniform[:, len(tokens)]), decoder.pad_id)
                total += torch.where(alive, log_p.gather(-1, token.unsqueeze(-1)).squeeze(-1), 0.0)
                tokens.append(token)
                token_mask.append(alive)
                alive = alive & ~torch.isin(token, stops) & (limits > len(tokens))
                if not alive.any():
                    break
                at = at + 1
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
                out = model(
                    input_ids=token.unsqueeze(-1), attention_mask=mask, position_ids=at,
                    past_key_values=cache, use_cache=True, logits_to_keep=1,
                )  # fmt: skip
                logits = out.logits[:, -1]
    if kept is not None:
        kept.cache = cache
    return Generated(prompt, prompt_mask, torch.stack(tokens, -1), torch.stack(token_mask, -1), total)


def distinct(prompts: Sequence[Sequence[int]], deltas: Sequence[Delta | None]) -> tuple[list[int], list[int]]:
    """Rows that differ in prompt or delta, and for every row the place of its equal among them.

    Deltas are told apart by layout and the identity of their numbers: the episodes of a question share one object.
    """
    seen: dict[tuple[tuple[int, ...], tuple[int, DeltaLayout] | None], int] = {}
    first: list[int] = []
    index: list[int] = []
    for row, (prompt, delta) in enumerate(zip(prompts, deltas, strict=True)):
        key = tuple(prompt), None if delta is None else (id(delta.values), delta.layout)
        if key not in seen:
            seen[key] = len(first)
            first.append(row)
        index.append(seen[key])
    return first, index


def _read(model: PreTrainedModel, ids: Tensor, mask: Tensor, deltas: Sequence[Delta | None]) -> tuple[Tensor, Any]:
    """Read the prompts: logits of the first token (u, V), and the cache."""
    with injected(model, RowDeltas(deltas, model.dtype, model.device)):
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    return out.logits[:, -1], out.past_key_values


def _watched(decoder: Decoder, kept: Kept | None) -> AbstractContextManager[None]:
    if kept is None or decoder.layers is None:
        return nullcontext()
    return keeping(decoder.layers, kept)
