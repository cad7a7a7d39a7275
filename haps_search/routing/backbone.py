"""The shared backbone: an LM or encoder reads the routing prompt once, and both levels decide from that reading."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.exact import exact
from haps_search.candidates.sources import load_encoder, load_lm
from haps_search.config.routing import BackboneConfig, FrozenTuning, LoraTuning
from haps_search.errors import ConfigError
from haps_search.routing.framing import Framed, Framing, bare


class Backbone(nn.Module):
    """Texts to pooled states (n, H): means of the last hidden states, for the low level over what the framing says."""

    def __init__(self, body: nn.Module, framing: Framing, width: int, learns: bool) -> None:
        super().__init__()
        # Dropout stays off: the update's forward must be the route's (design section 3a).
        self.body = body.eval()
        self.width, self.learns = width, learns
        self._framing = framing
        self._without_cache = {"use_cache": False} if hasattr(body.config, "use_cache") else {}

    @classmethod
    def load(cls, config: BackboneConfig, stem: str | None = None) -> Self:
        """The low level reads of a prompt what follows `stem`; None for all of it.

        Raises CandidateError for a model that does not load, ConfigError for LoRA targets it lacks.
        """
        what = "router backbone", config.source, config.dtype, config.device, config.trust_remote_code
        if config.type == "encoder":
            model, tokenizer = load_encoder(*what)
            framing = bare(tokenizer, min(config.max_tokens, _readable(model, tokenizer)), stem)
        else:
            loaded = load_lm(*what)
            model, framing = loaded.model, bare(loaded.tokenizer, config.max_tokens, stem)
        width = int(model.config.get_text_config().hidden_size)
        return cls(tuned(model.base_model, config), framing, width, not isinstance(config.tuning, FrozenTuning))

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    @property
    def head_dtype(self) -> torch.dtype:
        """What heads compute in: float32, or float64 where the backbone does."""
        return torch.promote_types(torch.float32, next(self.body.parameters()).dtype)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many texts are longer than `max_tokens` allows, of which only the end is read."""
        return self._framing.truncated(texts)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """What the low level reads (n, H), alone."""
        return self.read(texts)[0]

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Pooled states for the low level, and for the high level, which reads all of a prompt."""
        framed = self._framing.framed(texts)
        ids, mask = self._padded(framed)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns), exact(self.head_dtype):
            states = self.body(input_ids=ids, attention_mask=mask, **self._without_cache).last_hidden_state
        whole = pooled(states, mask, self.head_dtype)
        if self._framing.stem is None:
            return whole, whole
        return pooled(states, spans(framed, states), self.head_dtype), whole

    def apart(self) -> Backbone:
        """A copy with weights of its own, equal at this moment."""
        return Backbone(copy.deepcopy(self.body), self._framing, self.width, self.learns)

    def _padded(self, framed: Sequence[Framed]) -> tuple[Tensor, Tensor]:
        rows = [each.ids for each in framed]
        width = max(map(len, rows))
        # Right padding: causal attention then gives every text the positions it has alone.
        pad = self._framing.pad_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        return ids, mask


def _readable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that an encoder has positions for; of RoBERTa's kind only the tokenizer knows that some are reserved."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", tokenizer.model_max_length)
    return int(min(positions, tokenizer.model_max_length))


def pooled(states: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, H): the mean of the states (n, S, H) where the mask (n, S) stands, computed in `dtype`."""
    weights = mask.unsqueeze(-1).to(dtype)
    return (states.to(dtype) * weights).sum(1) / weights.sum(1)


def spans(framed: Sequence[Framed], states: Tensor, left: bool = False) -> Tensor:
    """(n, S): 1 at the tokens over which is pooled, of prompts that are padded on the right, or on the `left`."""
    mask = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
    for row, each in enumerate(framed):
        start = states.shape[1] - len(each.ids) if left else 0
        mask[row, start + each.begin : start + each.end] = 1
    return mask


def tuned(model: nn.Module, config: BackboneConfig) -> nn.Module:
    """The frozen model with what is to learn: all of it, a PEFT LoRA, or nothing. LoRA is patched in place."""
    if isinstance(config.tuning, FrozenTuning):
        return model
    if not isinstance(config.tuning, LoraTuning):
        return model.requires_grad_(True)
    return _with_lora(model, config.tuning)


def _with_lora(model: nn.Module, tuning: LoraTuning) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules=list(tuning.targets), lora_dropout=0.0)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"routing.backbone.tuning.targets: {error}") from error
