"""The honest rival: what a careful user writes with `transformers` alone.

The candidate stays loaded; all episodes of all questions go through `generate` in one batch with a key-value cache,
each row under its question's adapter by this project's own injection, since PEFT's per-row adapters take no gradient;
and one full second pass over the texts gives the gradients. Weights are frozen and logits are formed for the text only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from haps_search.lora.injection import injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.types import Adapter


class PlainBatched:
    """A rollout with gradients of Q questions, G episodes each; texts have their full length."""

    def __init__(self, model: Any, new: int) -> None:
        self._model, self._new = model, new
        model.generation_config.eos_token_id = None

    def learnt(self, prompts: Tensor, adapters: Sequence[Adapter], advantages: Sequence[float]) -> list[Tensor]:
        """Per question d sum(advantage * log p) / d adapter, (P,), over an episode per advantage; prompts (Q, S),
        adapters Q."""
        rows = [adapter for adapter in adapters for _ in advantages]
        said = self.said(prompts, rows, len(advantages))
        return self.gradients(said, rows, [*advantages] * len(adapters))

    @torch.no_grad()
    def said(self, prompts: Tensor, rows: Sequence[Adapter], episodes: int) -> Tensor:
        """Prompts with texts, (Q x G, S + T)."""
        with injected(self._model, RowAdapters(rows, self._model.dtype, self._model.device)):
            found: Tensor = self._model.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                max_new_tokens=self._new, num_return_sequences=episodes, use_cache=True, pad_token_id=0,
            )  # fmt: skip
        return found

    def gradients(self, said: Tensor, rows: Sequence[Adapter], advantages: Sequence[float]) -> list[Tensor]:
        leaves = RowAdapters(rows, self._model.dtype, self._model.device)
        leaves.require_gradients()
        with torch.enable_grad(), injected(self._model, leaves):
            out = self._model(said, use_cache=False, logits_to_keep=self._new + 1)
            log_p = out.logits[:, :-1].log_softmax(-1).gather(-1, said[:, -self._new :].unsqueeze(-1))
            total = (torch.tensor(advantages).unsqueeze(-1) * log_p.squeeze(-1)).sum()
        return leaves.gradients(total, torch.ones_like(total))
