"""Batched decoding with a key-value cache, every row under its own delta and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from haps_search.candidates.policy import Policy, uniforms
from haps_search.types import Sampling

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
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    stop_ids: Sequence[int],
    pad_id: int,
) -> Generated:
    """Draw one text per prompt until an end token or the row's own `max_new_tokens`."""
    device = model.device
    prompt, prompt_mask = pad_left(prompts, pad_id, device)
    limits = torch.tensor([s.max_new_tokens for s in samplings], device=device)
    steps = int(limits.max())
    policy, uniform = Policy(samplings, device), uniforms(samplings, steps).to(device)
    stops = torch.tensor(list(stop_ids), device=device)
    mask, ids, at, cache = prompt_mask, prompt, positions(prompt_mask), None
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    total = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    tokens, token_mask = [], []
    for step in range(steps):
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = out.past_key_values
        log_p = policy.log_probabilities(policy.tempered(out.logits[:, -1]))
        token = policy.draw(log_p, uniform[:, step])
        token = torch.where(alive, token, pad_id)
        total += torch.where(alive, log_p.gather(-1, token.unsqueeze(-1)).squeeze(-1), 0.0)
        tokens.append(token)
        token_mask.append(alive)
        alive = alive & ~torch.isin(token, stops) & (limits > step + 1)
        if not alive.any():
            break
        ids, at = token.unsqueeze(-1), at[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
    return Generated(prompt, prompt_mask, torch.stack(tokens, -1), torch.stack(token_mask, -1), total)
