"""Only the suffix is replayed: below the first patched layer everything is the frozen model's (design 3b).

While a batch speaks, the hidden states that enter the first patched layer are kept. The gradient then needs
that layer and those above it, and the output head. A model whose layers are not recognised is replayed whole.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from haps_search.candidates.stack import Head, run_below, run_from
from haps_search.types import Adapter, LinearModule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)
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
    mask, kept = torch.ones_like(ids), Kept(first=len(layers) - 1)
    positions = ids.clone()
    with keeping(layers, kept):
        whole = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    if len(kept.states) != 1:
        return False
    kept.states = list(kept.states[0].split(1, dim=1))
    head = Head.of(model)
    inputs = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
    try:
        replayed = head.logits(Replay(head, layers, kept, mask, positions).hidden(tail=False))
        if len(layers) == 1:
            return _close(replayed, whole)
        below, _ = run_below(head, layers, kept.first, input_ids=ids, **inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return _close(replayed, whole) and _close(below, torch.cat(kept.states, 1))


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-2)


def first_patched(adapters: Sequence[Adapter | None]) -> int | None:
    """The lowest layer that any adapter patches, None without adapters."""
    found = [target.layer for adapter in adapters if adapter is not None for target in adapter.layout.targets]
    return min(found, default=None)


@dataclass
class Kept:
    """What a batch's generation leaves for its replay.

    `states` enter layer `first`: prompt (n, S, H), then one (n, 1, H) per token fed back, 0 for rows that had left.
    `prompt` has the last layer's keys and values of the prompts, where that is all a replay needs.
    """

    first: int
    states: list[Tensor] = field(default_factory=list)
    prompt: Any = None
    _rows: Tensor | None = None

    def add(self, states: Tensor) -> None:
        if self._rows is None:
            self.states.append(states)
        else:
            whole = states.new_zeros(len(self._rows), *states.shape[1:])
            whole[self._rows] = states
            self.states.append(whole)

    def select(self, index: Tensor) -> None:
        """Rows of distinct prompts become rows of episodes."""
        self.states = [state[index] for state in self.states]

    def remember(self, cache: Any) -> None:
        """Hold what the prompts left in the last layer, if nothing below it is patched."""
        if self.first == len(cache.layers) - 1 and all(type(layer) in _PLAIN for layer in cache.layers):
            self.prompt = copy.copy(cache)
            self.prompt.layers = [*map(_outline, cache.layers[:-1]), copy.copy(cache.layers[-1])]

    def keep(self, rows: Tensor) -> None:
        """Rows of the batch that go on, named among those that went on before."""
        before = torch.ones_like(rows) if self._rows is None else self._rows
        self._rows = before.clone()
        self._rows[before] = rows


def _outline(layer: Any) -> Any:
    """A layer of the same length that holds nothing: masks are made from lengths."""
    outline = copy.copy(layer)
    outline.keys = outline.values = layer.keys.new_zeros(1).expand(1, 1, layer.keys.shape[-2], 1)
    return outline


@contextmanager
def keeping(layers: nn.ModuleList, kept: Kept) -> Iterator[None]:
    """While open, what enters the first patched layer is appended to `kept`."""

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.add(args[0] if args else kwargs["hidden_states"])

    with layers[kept.first].register_forward_pre_hook(keep, with_kwargs=True):
        yield


class Replay:
    """Final hidden states (n, T, H) from kept ones, as often as wanted: with adapters, and without for the KL."""

    def __init__(self, head: Head, layers: nn.ModuleList, kept: Kept, mask: Tensor, positions: Tensor) -> None:
        """`mask` and `positions` are (n, S + T - 1), the positions that were fed."""
        self._head, self._layers, self._first = head, layers, kept.first
        self._mask, self._positions = mask, positions
        self._states = torch.cat(kept.states, 1)
        self._steps = len(kept.states)
        self._past = kept.prompt

    def tail_suffices(self, targets: Sequence[LinearModule]) -> bool:
        """Whether positions before the text's can be left out: their outputs then feed no key and no value.

        So it is where only the last layer is patched, after its attention's keys and values, and those of the prompt
        are still held.
        """
        last = len(self._layers) - 1
        after = all(t.layer == last and t.name.rsplit(".", 1)[-1] in _AFTER_ATTENTION for t in targets)
        return after and self._past is not None and self._rolls_back()

    def hidden(self, tail: bool) -> Tensor:
        if not tail:
            return self._run(self._states, self._positions, None)
        start = self._states.shape[1] - self._steps
        past = copy.copy(self._past)
        past.layers = [copy.copy(layer) for layer in self._past.layers]
        past.crop(-1)  # the prompt's last position predicts the first token
        return self._run(self._states[:, start:], self._positions[:, start:], past)

    def _run(self, states: Tensor, positions: Tensor, past: Any) -> Tensor:
        hidden, _ = run_from(
            self._head, self._layers, self._first, states,
            attention_mask=self._mask, position_ids=positions, past_key_values=past, use_cache=past is not None,
        )  # fmt: skip
        return hidden[:, -self._steps :]

    def _rolls_back(self) -> bool:
        # A sliding window that has moved on has dropped what the prompt's last position saw.
        windows = [getattr(layer, "sliding_window", None) for layer in self._past.layers]
        prompt = self._states.shape[1] - self._steps + 1
        return all(window is None or prompt < window for window in windows)
