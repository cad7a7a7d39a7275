"""Only the suffix is replayed: below the first patched layer everything is the frozen model's (design 3b).

Log-likelihoods and gradients need the hidden states that enter that layer, the layer and those above it, and the
output head. A model whose layers are not recognised is replayed whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from haps_search.candidates.activations import Activations, Kept, keeping
from haps_search.candidates.attention import Attention, output_of
from haps_search.candidates.prompt_cache import fill
from haps_search.candidates.prompts import positions, stack_left, stack_right
from haps_search.candidates.stack import Head, noting_returns, run_below, run_from
from haps_search.types import Adapter, LinearModule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
_AFTER_ATTENTION = ("q_proj", "o_proj", "dense", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2")
"""Modules that feed no keys or values of their own layer. Any other patched module may."""


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """The stack of decoder layers, None (said once) where the model has none whose replay gives its own logits."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(stacks) == 1 and _replays(model, stacks[0]):
        return stacks[0]
    _log.warning("%s: its layers are not recognised; gradients replay the whole model", type(model).__name__)
    return None


@torch.no_grad()
def _replays(model: PreTrainedModel, layers: nn.ModuleList) -> bool:
    """Try it on four tokens: families differ in what they do between embedding and layers, and in what they return."""
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    kept = Kept(first=len(layers) - 1)
    inputs = {"attention_mask": torch.ones_like(ids), "position_ids": ids.clone(), "use_cache": False}
    with keeping(layers, kept), noting_returns(layers):
        whole = model(input_ids=ids, **inputs).logits
    if kept.prompt is None or kept.steps:
        return False
    head, entered = Head.of(model), kept.prompt[0]
    try:
        replay = Replay(head, layers, model.config, [Activations(kept.first, entered[:1], entered[1:])])
        replayed = head.logits(replay.hidden())
        if len(layers) == 1:
            return _close(replayed, whole)
        below, _ = run_below(head, layers, kept.first, input_ids=ids, **inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return _close(replayed, whole) and _close(below, kept.prompt)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def last_attention(model: PreTrainedModel, head: Head, layers: nn.ModuleList) -> Attention | None:
    """The attention of the last layer, None where it cannot be left out; tried on four tokens."""
    found = output_of(model, layers[-1])
    if found is None:
        return None
    name, module, output = found
    ids, given = torch.arange(4, device=model.device).unsqueeze(0), []
    inputs = {"attention_mask": torch.ones_like(ids), "position_ids": ids.clone(), "use_cache": False}
    kept, attention = Kept(first=len(layers) - 1), Attention(name, module, output, 1)
    counting = module.register_forward_hook(
        lambda m, args, out: given.append(len(out) if isinstance(out, tuple) else 0)
    )
    with keeping(layers, kept), counting, attention.catching() as caught:
        whole = model(input_ids=ids, **inputs).logits
    if kept.prompt is None or len(caught) != 1:
        return None
    attention, entered = Attention(name, module, output, given[0]), kept.prompt[0]
    rows = [Activations(kept.first, entered[:1], entered[1:], attended=caught[0][0])]
    try:
        replayed = head.logits(Replay(head, layers, model.config, rows, attention).hidden())
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    return attention if _close(replayed, whole) else None


def patched_modules(*adapters: Adapter | None) -> list[LinearModule]:
    """All modules that these adapters patch, in all of their parts."""
    return [t for adapter in adapters if adapter is not None for part in adapter.parts for t in part.layout.targets]


def first_patched(adapters: Iterable[Adapter | None]) -> int | None:
    """The lowest layer that any adapter patches, None without adapters."""
    return min((target.layer for target in patched_modules(*adapters)), default=None)


def tail_suffices(targets: Iterable[LinearModule], layers: int) -> bool:
    """Whether the prompt's positions but the last can be left out: their outputs then feed no key and no value.

    So it is where only the last of the layers is patched, after its attention's keys and values.
    """
    return all(t.layer == layers - 1 and t.name.rsplit(".", 1)[-1] in _AFTER_ATTENTION for t in targets)


class Replay:
    """Final hidden states (n, T, H) from which the tokens of completions are predicted, from what enters one layer; as
    often as wanted: with adapters, and without or with others for the KL."""

    def __init__(
        self,
        head: Head,
        layers: nn.ModuleList,
        config: Any,
        rows: Sequence[Activations],
        attention: Attention | None = None,
    ) -> None:
        """The rows enter at one layer, all of them with `past` or all without; and so with `attended`, which stands in
        for the `attention` of that layer."""
        self._head, self._layers, self._config, self._first = head, layers, config, rows[0].first
        self._attention, attended = attention, [row.attended for row in rows if row.attended is not None]
        self._attended = stack_right(attended) if attended else None
        prompt, text = stack_left([row.prompt for row in rows]), stack_right([row.text for row in rows])
        self._states, self._steps = torch.cat([prompt, text], 1), text.shape[1] + 1
        tokens = torch.tensor([row.prompt_tokens for row in rows], device=text.device)
        width = max(row.prompt_tokens for row in rows)
        places = torch.arange(width + text.shape[1], device=text.device)
        self._mask = places >= width - tokens.unsqueeze(-1)
        self._positions = positions(self._mask)[:, -self._states.shape[1] :]
        pasts = [row.past for row in rows if row.past is not None]
        self._past = tuple(stack_left(some) for some in zip(*pasts, strict=True))

    def hidden(self) -> Tensor:
        past = self._prompts() if self._past else None
        with self._attending():
            hidden, _ = run_from(
                self._head, self._layers, self._first, self._states, attention_mask=self._mask,
                position_ids=self._positions, past_key_values=past, use_cache=past is not None,
            )  # fmt: skip
        return hidden[:, -self._steps :]

    def _attending(self) -> AbstractContextManager[None]:
        if self._attention is None or self._attended is None:
            return nullcontext()
        return self._attention.standing_in(self._attended)

    def attended(self, attention: Attention) -> list[Tensor]:
        """Per row (T, d): what enters the output of the first layer's attention where tokens are predicted."""
        with attention.catching() as caught:
            self.hidden()
        return list(caught[0][:, -self._steps :])

    def _prompts(self) -> Any:
        """A cache of the prompts but their last tokens. Layers below the last hold nothing but their length, since
        masks are made from lengths."""
        keys, values = self._past
        cache = DynamicCache(config=self._config)
        tokens = keys.shape[-2]
        outline = keys.new_zeros(1).expand(1, 1, tokens, 1)
        for layer in cache.layers[:-1]:
            fill(layer, outline, outline, tokens)
        fill(cache.layers[-1], keys, values, tokens)
        return cache
