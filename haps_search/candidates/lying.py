"""How prompts lie in a forward pass: side by side, padded on the left, or packed, one after the other without padding.

Either way what comes out of it is padded on the left, in as many columns as the longest prompt has.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from haps_search.candidates.activations import plain
from haps_search.candidates.prompt_cache import fill
from haps_search.candidates.prompts import pad_left, positions, stack_left
from haps_search.candidates.row_attention import Packing, SharedLayer, attend_by_rows, packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
PACKED_UNDER = 0.9
"""Prompts are packed where no more than this share of the positions beside each other would hold tokens."""


class Padded:
    """n prompts beside each other, S tokens the longest of them."""

    lengths: tuple[int, ...] | None = None
    """Of rows that lie one after the other."""

    def __init__(self, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> None:
        ids, self.mask = pad_left(prompts, pad_id, device)
        self.tokens: dict[str, Tensor] = {"input_ids": ids}
        self.ends: int | Tensor = 1
        """`logits_to_keep`, for each prompt's last token."""

    def places(self) -> dict[str, Any]:
        """What a pass takes beside tokens or states: mask, positions, a cache where the model's own would not do."""
        return {"attention_mask": self.mask, "position_ids": positions(self.mask), "use_cache": True}

    def reading(self) -> AbstractContextManager[None]:
        """While open, they go through a model."""
        return nullcontext()

    def entering(self, states: Tensor) -> Tensor:
        """From (n, S, H) to what goes in."""
        return states

    def padded(self, states: Tensor) -> Tensor:
        """From what came out to (n, S, H)."""
        return states

    def last(self, states: Tensor) -> Tensor:
        """(n, 1, H) of the last tokens, of what came out."""
        return states[:, -1:]

    def each(self, logits: Tensor) -> Tensor:
        """(n, V) of the logits at `ends`."""
        return logits[:, -1]

    def filled(self, cache: Any, config: Any) -> Any:
        """The cache that the pass filled, of n rows."""
        return cache


class Packed(Padded):
    """The same one after the other."""

    def __init__(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.packing = Packing.of(list(map(len, prompts)), device)
        self.lengths = self.packing.lengths
        self.tokens = {"input_ids": torch.tensor([[token for prompt in prompts for token in prompt]], device=device)}
        self.ends = self.packing.ends
        self._at = torch.tensor([[at for length in self.packing.lengths for at in range(length)]], device=device)

    def places(self) -> dict[str, Any]:
        # A cache without windows: they would be one over all rows.
        return {"position_ids": self._at, "past_key_values": DynamicCache(), "use_cache": True}

    def reading(self) -> AbstractContextManager[None]:
        return packed(self.packing)

    def entering(self, states: Tensor) -> Tensor:
        return torch.cat([row[-length:] for row, length in zip(states, self.packing.lengths, strict=True)]).unsqueeze(0)

    def padded(self, states: Tensor) -> Tensor:
        return self.packing.padded(states)

    def last(self, states: Tensor) -> Tensor:
        return states[0, self.packing.ends].unsqueeze(1)

    def each(self, logits: Tensor) -> Tensor:
        return logits[0]

    def filled(self, cache: Any, config: Any) -> Any:
        found, width = DynamicCache(config=config), max(self.packing.lengths)
        for layer, held in zip(found.layers, cache.layers, strict=False):
            if held.is_initialized:
                keys, values = (
                    stack_left(part[0].split(self.packing.lengths, -2)) for part in (held.keys, held.values)
                )
                if isinstance(layer, DynamicSlidingWindowLayer):
                    keys, values = (part[..., 1 - layer.sliding_window :, :] for part in (keys, values))
                fill(layer, keys, values, width)
        return found


def lying(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, packs: bool) -> Padded:
    """`packs`: whether the model can read them packed."""
    live = sum(map(len, prompts))
    if packs and live <= PACKED_UNDER * len(prompts) * max(map(len, prompts)):
        return Packed(prompts, device)
    return Padded(prompts, pad_id, device)


@dataclass(frozen=True, slots=True)
class ByRows:
    """What a model's attention can do: read prompts packed, and let rows go on from one prompt's keys and values. Both
    are tried, as families differ."""

    packs: bool
    shares: bool


@torch.no_grad()
def by_rows(model: PreTrainedModel, pad_id: int) -> ByRows:
    """Try it on eight tokens. A model that can do neither keeps its attention as it was."""
    prompts = [0, 1, 2, 3, 4], [3, 2, 1]
    beside, before = Padded(prompts, pad_id, model.device), _attending(model)
    if not before:
        return ByRows(False, False)
    found = ByRows(False, False)
    try:
        wanted, _ = read_by(model, beside)
        if attend_by_rows(model):
            again, cache = read_by(model, beside)
            if _close(again, wanted) and all(map(plain, cache.layers)):
                packs = _packs(model, Packed(prompts, model.device), wanted)
                found = ByRows(packs, _shares(model, beside, cache))
    except Exception:  # noqa: BLE001 - whatever a family stumbles over, it is read as before
        _log.debug("%s: attention by rows", type(model).__name__, exc_info=True)
    if not found.packs and not found.shares:
        for config, attends in before:
            config._attn_implementation_internal = attends
    does = "packed" if found.packs else "padded", "one" if found.shares else "a copy each"
    _log.info("%s: prompts are read %s, texts of one have %s of its keys and values", type(model).__name__, *does)
    return found


def _attending(model: PreTrainedModel) -> list[tuple[Any, Any]]:
    """Whose attention is named where: the configurations of a model's parts."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [
        (c, c._attn_implementation_internal) for c in configs.values() if hasattr(c, "_attn_implementation_internal")
    ]


def read_by(model: PreTrainedModel, lie: Padded) -> tuple[Tensor, Any]:
    """Logits (n, V) of what follows, and the cache, of a whole model."""
    with lie.reading():
        out = model(**lie.tokens, **lie.places(), logits_to_keep=lie.ends)
    return lie.each(out.logits), lie.filled(out.past_key_values, model.config)


def _packs(model: PreTrainedModel, lie: Packed, wanted: Tensor) -> bool:
    try:
        found, _ = read_by(model, lie)
    except Exception:  # noqa: BLE001
        return False
    # Of a window that attention is not told of, nothing would be seen in so few tokens.
    told = lie.packing.seen - {None} == lie.packing.windows - {None}
    return told and _close(found, wanted)


def _shares(model: PreTrainedModel, lie: Padded, cache: Any) -> bool:
    if model.dtype.itemsize < 4:
        return False  # scores of 16 bits would be rounded before their softmax, which torch's own attention does not
    owners, token = [0, 1, 0], torch.tensor([[1], [2], [3]], device=model.device)
    rows = torch.tensor(owners, device=model.device)
    mask = torch.cat([lie.mask[rows], torch.ones_like(token, dtype=torch.bool)], -1)
    inputs = {"input_ids": token, "attention_mask": mask, "position_ids": positions(mask)[:, -1:], "use_cache": True}
    try:
        apart, together = copy.deepcopy(cache), cache
        apart.batch_select_indices(rows)
        for number, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer:
                together.layers[number] = SharedLayer(layer.keys, layer.values, owners)
            else:
                layer.batch_select_indices(rows)
        found = model(**inputs, past_key_values=together).logits
        return _close(found, model(**inputs, past_key_values=apart).logits)
    except Exception:  # noqa: BLE001
        return False


def _close(found: Tensor, wanted: Tensor) -> bool:
    """As far as the model's own numbers reach, of its logits' spread as a whole."""
    bits16 = found.element_size() == 2
    found, wanted = found.double(), wanted.double()
    off = float((found - wanted).norm() / (wanted - wanted.mean()).norm()) if found.shape == wanted.shape else math.inf
    return off <= (0.1 if bits16 else 1e-3)
