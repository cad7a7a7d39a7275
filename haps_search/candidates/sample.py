"""Sampling: batched decoding with a key-value cache, every row under its own adapter and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from haps_search.candidates.activations import Kept, keeping
from haps_search.candidates.decode import stepping
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.policy import Policy, uniforms
from haps_search.candidates.prefill import prefill
from haps_search.types import Adapter, Sampling

SHRINK = 0.75
"""Rows that have ended leave a batch when no larger share of it still decodes: leaving copies what the others hold."""

UNSEEN = {"cuda": 8}
"""So many tokens are drawn before the CPU waits for the device to see whose text has ended; one, where it need not
wait."""


Drew = Callable[[int, int], bool]
"""Told of a row of the batch and the token it drew, an end token too; False: nobody wants the rest of that row."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The completions of a batch, padded right: `tokens` and `mask` (n, T), end tokens included, and the
    log-probability (n, T) of each token where it was drawn; `known` says per row whether the prompt was known from
    before.
    """

    tokens: Tensor
    mask: Tensor
    log_probabilities: Tensor
    known: tuple[bool, ...]

    def rows(self) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Per row its token ids and their log-probabilities."""
        lengths = self.mask.sum(-1).tolist()
        drawn = zip(self.tokens.tolist(), self.log_probabilities.tolist(), lengths, strict=True)
        return [(tuple(ids[:length]), tuple(log_p[:length])) for ids, log_p, length in drawn]


@torch.no_grad()
def sample(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    adapters: Sequence[Adapter | None],
    kept: Kept | None = None,
    drew: Drew | None = None,
) -> Drawn:
    """Draw one completion per prompt until an end token, the row's own `max_new_tokens`, or where `drew` says so.

    A prompt that several rows share is read once, above the first patched layer once per adapter. With `kept`, hidden
    states for scoring are collected into it.
    """
    device = decoder.model.device
    limits = torch.tensor([s.max_new_tokens for s in samplings], device=device)
    steps = int(limits.max())
    policy, uniform = Policy.of(samplings, device), uniforms(samplings, steps).to(device)
    stops, looks = torch.tensor(list(decoder.stop_ids), device=device), UNSEEN.get(device.type, 1)

    with _watched(decoder, kept):
        read = prefill(decoder, prompts, adapters, kept)
        logits, rows = read.logits, torch.arange(len(prompts), device=device)
        alive = torch.ones_like(rows, dtype=torch.bool)
        tokens = torch.full((len(prompts), steps), decoder.pad_id, device=device)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        chosen = torch.zeros(tokens.shape, dtype=torch.float64, device=device)
        with stepping(decoder, read, adapters, steps, kept) as decoding:
            for step in range(steps):
                log_p = policy.log_probabilities(policy.tempered(logits))
                token = torch.where(alive, policy.draw(log_p, uniform[rows, step]), decoder.pad_id)
                chosen[rows, step] = log_p.gather(-1, token.unsqueeze(-1)).squeeze(-1).double()
                tokens[rows, step], mask[rows, step] = token, alive
                if drew is not None:
                    alive = alive & _wanted(drew, rows, token, alive)
                alive = alive & ~torch.isin(token, stops) & (limits[rows] > step + 1)
                if (step + 1) % looks == 0 or step + 1 == steps:
                    going_on = int(alive.sum())
                    if not going_on:
                        break
                    if going_on <= SHRINK * len(rows) and decoding.keep(alive):
                        rows, token, alive = rows[alive], token[alive], alive[alive]
                        policy = Policy.of([samplings[row] for row in rows.tolist()], device)
                logits = decoding.logits(token)
    length = max(1, int(mask.sum(-1).max()))
    return Drawn(tokens[:, :length], mask[:, :length], chosen[:, :length], read.known)


def _wanted(drew: Drew, rows: Tensor, token: Tensor, alive: Tensor) -> Tensor:
    told = zip(rows.tolist(), token.tolist(), alive.tolist(), strict=True)
    return torch.tensor([drew(row, drawn) if there else False for row, drawn, there in told], device=rows.device)


def _watched(decoder: Decoder, kept: Kept | None) -> AbstractContextManager[None]:
    if kept is None or decoder.layers is None:
        return nullcontext()
    return keeping(decoder.layers, kept)
