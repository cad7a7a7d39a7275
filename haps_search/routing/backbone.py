"""The shared backbone: an LM reads the routing prompt once, and both levels decide from that reading."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from haps_search.candidates.exact import exact
from haps_search.candidates.sources import load_lm
from haps_search.config.routing import BackboneConfig, FrozenTuning, LoraTuning
from haps_search.errors import ConfigError


class Backbone(nn.Module):
    """Texts to pooled states (n, H): the mean of the last hidden states over the prompt's tokens."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        loaded = load_lm("router backbone", config.source, config.dtype, config.device, config.trust_remote_code)
        self._tokenizer = loaded.tokenizer
        self._max_tokens = config.max_tokens
        self._frozen = isinstance(config.tuning, FrozenTuning)
        body = loaded.model.base_model
        self.width = int(loaded.model.config.get_text_config().hidden_size)
        if isinstance(config.tuning, LoraTuning):
            body = _with_lora(body, config.tuning)
        elif not self._frozen:
            body.requires_grad_(True)
        # Dropout stays off: the update's forward must be the route's (design section 3a).
        self.body = body.eval()

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    @property
    def head_dtype(self) -> torch.dtype:
        """What heads compute in: float32, or float64 where the backbone does."""
        return torch.promote_types(torch.float32, next(self.body.parameters()).dtype)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many texts are longer than `max_tokens`, of which only the end is read."""
        return sum(len(self._tokenizer(text)["input_ids"]) > self._max_tokens for text in texts)

    def forward(self, texts: Sequence[str]) -> Tensor:
        ids, mask = self._tokenise(texts)
        learns = torch.is_grad_enabled() and not self._frozen
        with torch.set_grad_enabled(learns), exact(self.head_dtype):
            states = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        weights = mask.unsqueeze(-1).to(self.head_dtype)
        return (states.to(self.head_dtype) * weights).sum(1) / weights.sum(1)

    def _tokenise(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [self._tokenizer(text)["input_ids"] for text in texts]
        rows = [row[-self._max_tokens :] for row in rows]
        if not all(rows):
            raise ConfigError("router backbone: its tokenizer reads nothing in a routing prompt")
        width = max(map(len, rows))
        # Right padding: causal attention then gives every text the positions it has alone.
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        return ids, mask


def _with_lora(body: nn.Module, tuning: LoraTuning) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules=list(tuning.targets), lora_dropout=0.0)
    try:
        return get_peft_model(body, config)
    except ValueError as error:
        raise ConfigError(f"routing.backbone.tuning.targets: {error}") from error
