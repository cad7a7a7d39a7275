"""A model in parts: its layers below or from some layer on, and the output head apart from them.

Layers that are left out pass their input on and keep their places, so that what a model looks up by a layer's
number stays right, and masks, rotary embeddings and windows stay the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def on_several_devices(model: nn.Module) -> bool:
    """Whether the layers lie on several devices (transformers' `device_map`).

    Whoever calls the whole model sees one device, as accelerate's hooks move what passes between layers. Its parts,
    its cache and its hidden states are elsewhere each.
    """
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


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

    def logits(self, hidden: Tensor, only: Tensor | None = None) -> Tensor:
        """`only`: of these tokens (v,), where `narrows`: (n, t, v)."""
        if self._body is None:
            return hidden
        with _answering(self._body, hidden), nullcontext() if only is None else _narrowed(self._model, only):
            logits: Tensor = self._model(inputs_embeds=hidden, use_cache=False).logits
        return logits

    @cached_property
    def narrows(self) -> bool:
        """Whether the logits of some tokens can be had without the others', tried on two."""
        if self._body is None or self._model.get_output_embeddings() is None:
            return False
        only, size = torch.arange(2, device=self._model.device), self._model.config.get_text_config().hidden_size
        hidden = torch.ones(1, 2, size, dtype=self._model.dtype, device=self._model.device)
        with torch.no_grad():
            whole, some = self.logits(hidden), self.logits(hidden, only)
        return some.shape == (1, 2, 2) and torch.allclose(some.float(), whole[..., :2].float(), rtol=1e-2, atol=1e-2)


@contextmanager
def _narrowed(model: PreTrainedModel, only: Tensor) -> Iterator[None]:
    """While open, the output embeddings are those of some tokens."""
    whole: Any = model.get_output_embeddings()
    some = nn.Linear(whole.in_features, len(only), bias=whole.bias is not None, device="meta")
    some.weight = nn.Parameter(whole.weight[only], requires_grad=False)
    if whole.bias is not None:
        some.bias = nn.Parameter(whole.bias[only], requires_grad=False)
    model.set_output_embeddings(some)
    try:
        yield
    finally:
        model.set_output_embeddings(whole)


@contextmanager
def _answering(body: nn.Module, hidden: Tensor) -> Iterator[None]:
    """While open, the layers are not run and give these states."""
    body.forward = lambda *args, **kwargs: BaseModelOutputWithPast(last_hidden_state=hidden)
    try:
        yield
    finally:
        del body.forward


def run_below(head: Head, layers: nn.ModuleList, first: int, **inputs: Any) -> tuple[Tensor, Any]:
    """States (n, t, H) that enter layer `first`, and the cache of the layers below it."""
    caught: list[Tensor] = []
    handle = layers[first - 1].register_forward_hook(
        lambda module, args, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    with handle, _skipping(layers, range(first, len(layers))):
        _, cache = head.hidden(**inputs)
    return caught[0], cache


def run_from(head: Head, layers: nn.ModuleList, first: int, states: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
    """Final hidden states (n, t, H) from the `states` (n, t, H) that enter layer `first`, and the cache of the rest."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Some models scale embeddings or add positions to them: what was kept must not go through that again.
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    # Before other hooks, so that whoever watches this layer sees the states themselves.
    handle = layers[first].register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    with handle, _skipping(layers, range(first)):
        return head.hidden(inputs_embeds=states, **inputs)


_IN_TUPLES: WeakSet[nn.ModuleList] = WeakSet()
"""Stacks whose layers give a tuple with the hidden states first, as Falcon's and BLOOM's do."""


@contextmanager
def noting_returns(layers: nn.ModuleList) -> Iterator[None]:
    """While open, the last layer is to run once; whatever is left out later returns in the same way."""

    def note(module: nn.Module, args: tuple[Any, ...], out: object) -> None:
        (_IN_TUPLES.add if isinstance(out, tuple) else _IN_TUPLES.discard)(layers)

    with layers[-1].register_forward_hook(note):
        yield


class _Skip(nn.Module):
    def __init__(self, in_tuple: bool) -> None:
        super().__init__()
        self._in_tuple = in_tuple

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if self._in_tuple else hidden_states


@contextmanager
def _skipping(layers: nn.ModuleList, places: Iterable[int]) -> Iterator[None]:
    whole = {i: layers[i] for i in places}
    try:
        for i in whole:
            layers[i] = _Skip(layers in _IN_TUPLES)
        yield
    finally:
        for i, layer in whole.items():
            layers[i] = layer
