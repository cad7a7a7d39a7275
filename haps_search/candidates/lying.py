"""How prompts lie in a forward pass: side by side, padded on the left, or packed, one after the other without padding.

Either way what comes out of it is padded on the left, in as many columns as the longest prompt has.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from haps_search.candidates.prompt_cache import fill
from haps_search.candidates.prompts import pad_left, positions, stack_left
from haps_search.candidates.row_attention import Packing, SharedLayer, attend_by_rows, packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED_UNDER = 0.9
"""Prompts are packed where no more than this share of the positions beside each other would hold tokens."""


class Lying(Protocol):
    """Of n prompts, S tokens the longest of them."""

    @property
    def tokens(self) -> dict[str, Tensor]: ...

    @property
    def places(self) -> dict[str, Tensor]:
        """Attention mask and positions, as a model takes them."""
        ...

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """Of rows that lie one after the other."""
        ...

    @property
    def ends(self) -> int | Tensor:
        """`logits_to_keep`, for each prompt's last token."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """While open, they go through a model."""
        ...

    def cache(self) -> Any:
        """An empty one for the pass; None: the model's own."""
        ...

    def entering(self, states: Tensor) -> Tensor:
        """From (n, S, H) to what goes in."""
        ...

    def padded(self, states: Tensor) -> Tensor:
        """From what came out to (n, S, H)."""
        ...

    def last(self, states: Tensor) -> Tensor:
        """(n, 1, H) of the last tokens, of what came out."""
        ...

    def each(self, logits: Tensor) -> Tensor:
        """(n, V) of the logits at `ends`."""
        ...

    def filled(self, cache: Any, config: Any) -> Any:
        """The cache that the pass filled, of n rows."""
        ...


class Padded:
    lengths = None
    ends = 1

    def __init__(self, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> None:
        self._ids, self._mask = pad_left(prompts, pad_id, device)

    @property
    def tokens(self) -> dict[str, Tensor]:
        return {"input_ids": self._ids}

    @property
    def places(self) -> dict[str, Tensor]:
        return {"attention_mask": self._mask, "position_ids": positions(self._mask)}

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def cache(self) -> Any:
        return None

    def entering(self, states: Tensor) -> Tensor:
        return states

    def padded(self, states: Tensor) -> Tensor:
        return states

    def last(self, states: Tensor) -> Tensor:
        return states[:, -1:]

    def each(self, logits: Tensor) -> Tensor:
        return logits[:, -1]

    def filled(self, cache: Any, config: Any) -> Any:
        return cache


class Packed:
    def __init__(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self._packing = Packing.of(list(map(len, prompts)), device)
        self._ids = torch.tensor([[token for prompt in prompts for token in prompt]], device=device)
        self._at = torch.tensor([[at for prompt in prompts for at in range(len(prompt))]], device=device)

    @property
    def lengths(self) -> tuple[int, ...]:
        return self._packing.lengths

    @property
    def packing(self) -> Packing:
        return self._packing

    @property
    def tokens(self) -> dict[str, Tensor]:
        return {"input_ids": self._ids}

    @property
    def places(self) -> dict[str, Tensor]:
        return {"position_ids": self._at}

    @property
    def ends(self) -> Tensor:
        return self._packing.bounds[1:].long() - 1

    def reading(self) -> AbstractContextManager[None]:
        return packed(self._packing)

    def cache(self) -> Any:
        return DynamicCache()  # without windows: they would be one over all rows

    def entering(self, states: Tensor) -> Tensor:
        return torch.cat([row[-length:] for row, length in zip(states, self.lengths, strict=True)]).unsqueeze(0)

    def padded(self, states: Tensor) -> Tensor:
        return stack_left(states[0].split(self.lengths))

    def last(self, states: Tensor) -> Tensor:
        return states[0, self.ends].unsqueeze(1)

    def each(self, logits: Tensor) -> Tensor:
        return logits[0]

    def filled(self, cache: Any, config: Any) -> Any:
        found, width = DynamicCache(config=config), max(self.lengths)
        for layer, held in zip(found.layers, cache.layers, strict=False):
            if held.is_initialized:
                keys, values = (stack_left(part[0].split(self.lengths, -2)) for part in (held.keys, held.values))
                if isinstance(layer, DynamicSlidingWindowLayer):
                    keys, values = (part[..., 1 - layer.sliding_window :, :] for part in (keys, values))
                fill(layer, keys, values, width)
        return found


def lying(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, packs: bool) -> Padded | Packed:
    """`packs`: whether the model can read them packed."""
    live = sum(map(len, prompts))
    if packs and live <= PACKED_UNDER * len(prompts) * max(map(len, prompts)):
        return Packed(prompts, device)
    return Padded(prompts, pad_id, device)


@dataclass(frozen=True, slots=True)
class ByRows:
    """What a model's attention can do; both are tried, as families differ."""

    packs: bool
    shares: bool


@torch.no_grad()
def by_rows(model: PreTrainedModel, pad_id: int) -> ByRows:
    """Try it on eight tokens. A model that can do neither keeps its attention as it was."""
    if not attend_by_rows(model):
        return ByRows(False, False)
    prompts = [0, 1, 2, 3, 4], [3, 2, 1]
    beside, packed_one = Padded(prompts, pad_id, model.device), Packed(prompts, model.device)
    try:
        wanted, cache = read_by(model, beside)
        plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        packs = plain and _packs(model, packed_one, wanted)
        shares = plain and _shares(model, beside, cache)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        packs = shares = False
    if not packs and not shares:
        model.set_attn_implementation("sdpa")
    return ByRows(packs, shares)


def read_by(model: PreTrainedModel, lie: Lying) -> tuple[Tensor, Any]:
    """Logits (n, V) of what follows, and the cache, of a whole model."""
    with lie.reading():
        out = model(**lie.tokens, **lie.places, past_key_values=lie.cache(), use_cache=True, logits_to_keep=lie.ends)
    return lie.each(out.logits), lie.filled(out.past_key_values, model.config)


def _packs(model: PreTrainedModel, lie: Packed, wanted: Tensor) -> bool:
    try:
        found, _ = read_by(model, lie)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    # Of a window that attention is not told of, nothing would be seen in so few tokens.
    told = lie.packing.seen - {None} == lie.packing.windows - {None}
    return told and _close(found, wanted)


def _shares(model: PreTrainedModel, lie: Padded, cache: Any) -> bool:
    owners, token = [0, 1, 0], torch.tensor([[1], [2], [3]], device=model.device)
    rows = torch.tensor(owners, device=model.device)
    mask = torch.cat([lie.places["attention_mask"][rows], torch.ones_like(token, dtype=torch.bool)], -1)
    apart, together = copy.deepcopy(cache), cache
    together.layers = [
        SharedLayer(la.keys, la.values, owners) if type(la) is DynamicLayer else la for la in cache.layers
    ]
    for layer in (*apart.layers, *(la for la in together.layers if not isinstance(la, SharedLayer))):
        layer.batch_select_indices(rows)
    inputs = {"input_ids": token, "attention_mask": mask, "position_ids": positions(mask)[:, -1:], "use_cache": True}
    try:
        found = model(**inputs, past_key_values=together).logits
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return _close(found, model(**inputs, past_key_values=apart).logits)


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2)
