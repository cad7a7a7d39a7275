"""Attention over rows as a pool has them: prompts that lie one after the other, without padding, and texts of which
several go on from one prompt, whose keys and values are there once.

It takes the place of `sdpa` in a model, by transformers' interface for attention functions, and is that wherever
neither is the case. On a GPU what lies one after the other goes through torch's flash kernel for rows of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from haps_search.candidates.prompts import stack_left

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "haps_rows"
SHARED_FROM = 1 << 17
"""So many numbers of a layer's keys would be copied before rows share them: two looks take longer than one. On a CPU
a step took 1.17 x the time with copies at 2.9e4 numbers, 1.0 at 1.3e5 and 0.73 at 5.1e5."""
UNEVEN = 2
"""Prompts are gone through one by one where their groups of rows, filled up to the largest, were so many times the
rows."""
_FOREIGN = ("softcap", "s_aux", "position_bias")
"""What some families add to attention; theirs is computed by their own function."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Rows of these lengths one after the other, as one row of a batch; `bounds` (n + 1,) is where they begin and end.
    `windows` are those that masks were asked for, and `seen` those that attention was told of."""

    lengths: tuple[int, ...]
    bounds: Tensor
    windows: set[int | None] = field(default_factory=set)
    seen: set[int | None] = field(default_factory=set)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(tuple(lengths), ends.to(device))

    @property
    def ends(self) -> Tensor:
        """Where each row's last token lies (n,)."""
        return self.bounds[1:].long() - 1

    def padded(self, states: Tensor) -> Tensor:
        """(n, S, H) from such a row (1, tokens, H)."""
        return stack_left(states[0].split(self.lengths))


_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)
_going_on: ContextVar[SharedLayer | None] = ContextVar("going_on", default=None)
"""The layer that gave its keys last: attention follows at once."""


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """While open, what goes through a model are such rows."""
    token = _packing.set(packing)
    try:
        yield
    finally:
        _packing.reset(token)


def packed_now() -> Packing | None:
    return _packing.get()


def attend_by_rows(model: PreTrainedModel) -> bool:
    """Put it into a model that attends by `sdpa`; False where it cannot be."""
    attends = getattr(model.config, "_attn_implementation", None)
    if attends != "sdpa":
        return attends == NAME
    AttentionInterface.register(NAME, _attention)  # of all models, so again does no harm
    AttentionMaskInterface.register(NAME, _mask)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, ImportError, RuntimeError):
        return False
    return str(model.config._attn_implementation) == NAME


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    packing = _packing.get()
    if packing is None:
        return sdpa_mask(*args, **kwargs)
    packing.windows.add(kwargs.get("local_size"))
    return None


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    packing, shared = _packing.get(), _going_on.get()
    if packing is None and (shared is None or shared.shown is not key):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if any(kwargs.get(name) is not None for name in _FOREIGN):
        raise NotImplementedError(f"attention with {[n for n in _FOREIGN if kwargs.get(n) is not None]}")
    if packing is not None:
        if attention_mask is not None:
            raise NotImplementedError("attention under a mask that the model made itself")
        return _one_after_the_other(packing, query, key, value, kwargs.get("scaling"), kwargs.get("sliding_window"))
    assert shared is not None
    _going_on.set(None)
    scaling = kwargs.get("scaling")
    return shared.attention(query, value, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling), None


def _one_after_the_other(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> tuple[Tensor, None]:
    """(1, heads, tokens, d) each; (1, tokens, heads, d)."""
    packing.seen.add(window)
    fewer = query.shape[1] != key.shape[1]
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and key.shape[-1] == value.shape[-1] <= 256:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        bounds, longest = packing.bounds, max(packing.lengths)
        back = -1 if window is None else window - 1
        out = varlen_attn(
            q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(back, 0), enable_gqa=fewer
        )
        assert isinstance(out, Tensor)
        return out.unsqueeze(0), None
    if fewer and query.is_cuda:  # with fewer heads of keys its flash kernels are for 16 bits only
        key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
        fewer = False
    apart = zip(*(part.split(packing.lengths, -2) for part in (query, key, value)), strict=True)
    found = [
        nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=(near := _near(q, window)), is_causal=near is None, scale=scaling, enable_gqa=fewer
        )
        for q, k, v in apart
    ]
    return torch.cat(found, -2).transpose(1, 2).contiguous(), None


def _near(query: Tensor, window: int | None) -> Tensor | None:
    """Which (t, t) positions a sliding window shows, None where it shows all before."""
    tokens = query.shape[-2]
    if window is None or tokens <= window:
        return None
    every = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device)
    return every.tril().triu(1 - window)


def shared(layer: Any, owners: Sequence[int]) -> Any:
    """The layer's prompts with rows that go on from them, `owners` saying from which; the layer itself where that
    saves less than it costs."""
    if not layer.is_initialized or layer.keys[0].numel() * (len(owners) - len(layer.keys)) < SHARED_FROM:
        return layer
    return SharedLayer(layer.keys, layer.values, owners)


class SharedLayer(CacheLayerMixin):
    """A layer of a cache whose rows go on from prompts: `keys` and `values` (u, heads, S, d) of these are there once,
    and (n, heads, t, d) of each row's own. Whoever asks for `keys` or `values` gets (n, heads, S + t, d), made anew."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, owners: Sequence[int]) -> None:
        """`owners` says which of the prompts is each row's."""
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._prompts = keys, values
        self.own = DynamicLayer()
        self.own.lazy_initialization(keys, values)
        self.own.keys, self.own.values = (p.new_empty(len(owners), p.shape[1], 0, p.shape[3]) for p in (keys, values))
        self.shown: Tensor | None = None
        self._group(owners)

    def _group(self, owners: Sequence[int]) -> None:
        members: dict[int, list[int]] = {}
        for row, owner in enumerate(owners):
            members.setdefault(owner, []).append(row)
        kept = list(members)
        if kept != list(range(len(self._prompts[0]))):
            self._prompts = self._prompts[0][kept], self._prompts[1][kept]
        self.owners = [kept.index(owner) for owner in owners]
        self._members = list(members.values())
        most = max(map(len, self._members))
        places = {row: u * most + g for u, rows in enumerate(self._members) for g, row in enumerate(rows)}
        filled = [[*rows, *[rows[-1]] * (most - len(rows))] for rows in self._members]
        self._index = torch.tensor(filled, device=self.device)
        self._place = torch.tensor([places[row] for row in range(len(owners))], device=self.device)

    @property
    def keys(self) -> Tensor:
        return torch.cat([self._prompts[0][self.owners], self.own.keys], -2)

    @property
    def values(self) -> Tensor:
        return torch.cat([self._prompts[1][self.owners], self.own.values], -2)

    @property
    def prompts(self) -> int:
        """How many there are."""
        return len(self._prompts[0])

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """It holds prompts from the beginning."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values of the rows' own tokens. Attention by rows looks at the prompts too."""
        keys, values = self.own.update(key_states, value_states)
        self.shown = keys
        _going_on.set(self)
        return keys, values

    def batch_select_indices(self, indices: Tensor) -> None:
        self.own.batch_select_indices(indices)
        self._group([self.owners[row] for row in indices.tolist()])

    def get_seq_length(self) -> int:
        return int(self._prompts[0].shape[-2] + self.own.keys.shape[-2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def attention(self, query: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Of one token per row: `query` (n, heads, 1, d), `mask` (n, 1, 1, S + t); (n, 1, heads, d).
        The rows of a prompt ask for its keys and values together."""
        assert self.shown is not None
        prompt_keys, prompt_values = self._prompts
        rows, heads, groups = len(query), query.shape[1], prompt_keys.shape[1]
        q = (query * scaling).reshape(rows, groups, heads // groups, -1)
        scores = torch.cat([self._by_prompts(q, prompt_keys.mT), q @ self.shown.mT], -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        shares = scores.softmax(-1)
        to_prompts, to_own = shares.split([prompt_keys.shape[-2], self.shown.shape[-2]], -1)
        found = self._by_prompts(to_prompts, prompt_values) + to_own @ values
        return found.reshape(rows, 1, heads, -1)

    def _by_prompts(self, part: Tensor, prompts: Tensor) -> Tensor:
        """Products (n, groups, r, y) of each row's (groups, r, x) with its prompt's (groups, x, y)."""
        rows, groups, r, _ = part.shape
        if self._index.numel() > UNEVEN * rows:
            found = part.new_empty(rows, groups, r, prompts.shape[-1])
            for members, prompt in zip(self._members, prompts, strict=True):
                together = part[members].transpose(0, 1).flatten(1, 2) @ prompt
                found[members] = together.view(groups, len(members), r, -1).transpose(0, 1)
            return found
        together = part[self._index].transpose(1, 2).flatten(2, 3) @ prompts
        return together.view(len(prompts), groups, -1, r, prompts.shape[-1]).transpose(1, 2).flatten(0, 1)[self._place]
