"""The output head apart from the layers, so that logits can be formed a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from haps_search.candidates.placed import on_several_devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Head:
    """From a model's final hidden states (n, t, H) to its logits (n, t, V), by the model's own code: scales and soft
    caps stay its own. Where that cannot be had apart, the hidden states are the logits.
    """

    def __init__(self, model: PreTrainedModel, body: nn.Module | None) -> None:
        self._model, self._body = model, body
        self.width = int(model.config.get_text_config().vocab_size)

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel) -> Head:
        """Tried on two tokens: families differ in what they do to hidden states and logits."""
        if on_several_devices(model):
            return cls(model, None)
        ids = torch.arange(2, device=model.device).unsqueeze(0)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        whole, apart = model(**inputs).logits, cls(model, model.get_decoder())
        try:
            found = apart.logits(apart.hidden(**inputs)[0])
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return cls(model, None)
        same = found.shape == whole.shape and torch.allclose(found.float(), whole.float(), rtol=1e-2, atol=1e-2)
        return apart if same else cls(model, None)

    def hidden(self, **inputs: Any) -> tuple[Tensor, Any]:
        """Run the layers: final hidden states (n, t, H) and the cache."""
        if self._body is None:
            out = self._model(**inputs)
            return out.logits, out.past_key_values
        out = self._body(**inputs)
        return out.last_hidden_state, out.past_key_values

    def logits(self, hidden: Tensor) -> Tensor:
        if self._body is None:
            return hidden
        with _answering(self._body, hidden):
            logits: Tensor = self._model(inputs_embeds=hidden, use_cache=False).logits
        return logits


@contextmanager
def _answering(body: nn.Module, hidden: Tensor) -> Iterator[None]:
    """While open, the layers are not run and give these states."""
    body.forward = lambda *args, **kwargs: BaseModelOutputWithPast(last_hidden_state=hidden)
    try:
        yield
    finally:
        del body.forward
