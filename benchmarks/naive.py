"""The loop that this project replaces, as the reference: what the paper's released code does for one question.

It loads the candidate, decodes token by token under autograd with a key-value cache, one episode after the other, and
back-propagates through the kept graph. Weights are frozen and one layer is patched, as there; logits are formed for
the last position only. Routing and the router's own update are left out, in its favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from haps_search.lora.injection import injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.types import Adapter


@dataclass(frozen=True, slots=True)
class Learnt:
    """Tokens (G, T), and d sum(advantage * log p) / d adapter, (P,)."""

    tokens: Tensor
    gradient: Tensor


def naive(folder: Path, prompt: Tensor, adapter: Adapter, advantages: Sequence[float], new: int, seed: int) -> Learnt:
    """One question of ids (S,), an episode per advantage."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    rows = RowAdapters([adapter], model.dtype, model.device)
    rows.require_gradients()
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad(), injected(model, rows):
        episodes = [_episode(model, prompt, new, generator) for _ in advantages]
        total = torch.stack(
            [advantage * log_p for advantage, (_, log_p) in zip(advantages, episodes, strict=True)]
        ).sum()
    (gradient,) = rows.gradients(total, torch.ones_like(total))
    return Learnt(torch.stack([tokens for tokens, _ in episodes]), gradient)


def _episode(model: Any, prompt: Tensor, new: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (T,) and their log-likelihood with its graph."""
    ids, cache = prompt.unsqueeze(0), None
    tokens, log_ps = [], []
    for _ in range(new):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, log_p = out.past_key_values, out.logits[0, -1].log_softmax(-1)
        ids = torch.multinomial(log_p.detach().exp(), 1, generator=generator).unsqueeze(0)
        tokens.append(ids[0, 0])
        log_ps.append(log_p[ids[0, 0]])
    return torch.stack(tokens), torch.stack(log_ps).sum()
