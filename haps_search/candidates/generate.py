"""Batched decoding with a key-value cache, every row under its own adapter and seed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from haps_search.candidates.decode import stepping
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.policy import Policy, uniforms
from haps_search.candidates.prefill import prefill
from haps_search.candidates.suffix import Kept, keeping
from haps_search.lora.injection import RowAdapters
from haps_search.types import Adapter, Sampling

SHRINK = 0.75
"""Rows that have ended leave a batch when no larger share of it still speaks: leaving copies what the others hold."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Prompts padded left to one column, where all texts start, and texts padded right.

    `prompt`, `prompt_mask` are (n, S); `tokens`, `token_mask` are (n, T), end tokens included;
    `log_likelihood` is (n,); `known` says per row whether the prompt was known from before.
    """

    prompt: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    token_mask: Tensor
    log_likelihood: Tensor
    known: tuple[bool, ...]

    def token_ids(self, row: int) -> tuple[int, ...]:
        return tuple(self.tokens[row][self.token_mask[row]].tolist())


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    adapters: Sequence[Adapter | None],
    kept: Kept | None = None,
) -> Generated:
    """Draw one text per prompt until an end token or the row's own `max_new_tokens`.

    A prompt that several rows read is read once, above the first patched layer once per adapter. With `kept`, hidden
    states for a replay are collected into it.
    """
    model = decoder.model
    device = model.device
    limits = torch.tensor([s.max_new_tokens for s in samplings], device=device)
    steps = int(limits.max())
    policy, uniform = Policy(samplings, device), uniforms(samplings, steps).to(device)
    stops = torch.tensor(list(decoder.stop_ids), device=device)

    with _watched(decoder, kept):
        heard = prefill(decoder, prompts, adapters, kept)
        if kept is not None:
            kept.remember(heard.cache)
        logits, rows = heard.logits, torch.arange(len(prompts), device=device)
        alive = torch.ones_like(rows, dtype=torch.bool)
        total = torch.zeros(len(prompts), dtype=torch.float64, device=device)
        tokens = torch.full((len(prompts), steps), decoder.pad_id, device=device)
        token_mask = torch.zeros_like(tokens, dtype=torch.bool)
        with stepping(decoder, heard, RowAdapters(adapters, model.dtype, device), steps, kept) as spoken:
            for step in range(steps):
                log_p = policy.log_probabilities(policy.tempered(logits))
                token = torch.where(alive, policy.draw(log_p, uniform[rows, step]), decoder.pad_id)
                total[rows] += torch.where(alive, log_p.gather(-1, token.unsqueeze(-1)).squeeze(-1), 0.0)
                tokens[rows, step], token_mask[rows, step] = token, alive
                alive = alive & ~torch.isin(token, stops) & (limits[rows] > step + 1)
                speaking = int(alive.sum())
                if not speaking:
                    break
                if speaking <= SHRINK * len(rows) and spoken.keep(alive):
                    rows, token, alive = rows[alive], token[alive], alive[alive]
                    policy = Policy([samplings[row] for row in rows.tolist()], device)
                logits = spoken.logits(token)
    length = step + 1
    return Generated(heard.ids, heard.mask, tokens[:, :length], token_mask[:, :length], total, heard.known)


def _watched(decoder: Decoder, kept: Kept | None) -> AbstractContextManager[None]:
    if kept is None or decoder.layers is None:
        return nullcontext()
    return keeping(decoder.layers, kept)
