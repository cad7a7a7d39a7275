"""Decoding in tensors of one shape, so that a GPU can replay a step as one CUDA graph instead of launching each kernel.

Keys and values, mask, token, position and adapters keep their places in memory. A plan serves every batch that fits its
shape, whose rows are a power of two and whose width is a multiple; what differs is copied in. One batch decodes at a
time, so all plans have their keys and values in the same memory. On a CPU the same code runs without a graph.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from haps_search.candidates.activations import Kept
from haps_search.candidates.prompt_cache import fill
from haps_search.candidates.prompts import Prefilled
from haps_search.lora.injection import patched
from haps_search.lora.stacks import Stacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WIDTH = 64
"""Caches are so many positions wide, or a multiple, so that batches of like length share a plan."""
PLANS = 8
"""So many shapes are kept; each holds adapters of its own."""


def bucket(rows: int) -> int:
    """How many rows the plan has that serves a batch of so many: the next power of two."""
    return 1 << (rows - 1).bit_length()


class Arena:
    """Keys and values of whichever plan decodes, and the memory of all graphs."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], Tensor] = {}
        self.pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    def shared(self, layer: int, kind: str, own: Tensor) -> Tensor:
        """In the place of a plan's `own` tensor; that is kept where none so large was seen before."""
        held = self._held.get((layer, kind))
        if held is None or held.numel() < own.numel():
            held = self._held[layer, kind] = own.flatten()
        return held[: own.numel()].view(own.shape)


class FixedPlan:
    """One shape: `rows`, `width` positions, and the shapes of the rows' adapters. Of a batch with fewer rows the first
    are its own; what the others say is nobody's."""

    def __init__(self, model: PreTrainedModel, rows: int, width: int, stacks: Stacks, arena: Arena) -> None:
        self._model, self._arena, device = model, arena, model.device
        self._cache: Any = StaticCache(config=model.config, max_cache_len=width)
        self._token, self._at = (torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(2))
        self._mask = torch.zeros(rows, 1, 1, width, dtype=model.dtype, device=device)
        self._adapters = {name: stack.copied() for name, stack in stacks.items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out, self._entering = torch.empty(0), torch.empty(0)
        self._kept: Kept | None = None
        self._filled, self._rows = 0, rows

    def start(self, read: Prefilled, at: Tensor, stacks: Stacks, kept: Kept | None) -> None:
        """Take over a batch of n rows whose prompts were read; `at` (n, 1) is the position of their last token. The
        stacks have as many rows as the plan."""
        (self._rows, self._filled), self._kept = read.mask.shape, kept
        self._at.zero_()
        self._at[: self._rows].copy_(at)
        self._mask.fill_(torch.finfo(self._mask.dtype).min)
        self._mask[: self._rows, 0, 0, : self._filled].masked_fill_(read.mask, 0.0)
        for name, stack in stacks.items():
            self._adapters[name].take(stack)
        for number, (fixed, grown) in enumerate(zip(self._cache.layers, read.cache.layers, strict=True)):
            if not fixed.is_initialized:
                self._place(number, fixed, grown)
            for whole, part in ((fixed.keys, grown.keys), (fixed.values, grown.values)):
                whole[: self._rows, :, : self._filled].copy_(part)
                # A mask hides numbers of the batch before; it does not hide a NaN.
                whole[: self._rows, :, self._filled :].zero_()
                whole[self._rows :].zero_()
        self._rewind()
        if self._graph is None and self._token.is_cuda:
            self._graph = self._captured()

    def _place(self, number: int, fixed: Any, grown: Any) -> None:
        whole = len(self._mask), -1, -1, -1
        fixed.lazy_initialization(grown.keys[:1].expand(whole), grown.values[:1].expand(whole))
        fixed.keys = self._arena.shared(number, "keys", fixed.keys)
        fixed.values = self._arena.shared(number, "values", fixed.values)

    def logits(self, token: Tensor) -> Tensor:
        """Feed one token (n,) per row; logits (n, V) of the next."""
        self._token[: self._rows].copy_(token.unsqueeze(-1))
        self._at.add_(1)
        self._mask[..., self._filled] = 0.0
        self._filled += 1
        if self._graph is None:
            with patched(self._model, self._adapters):
                return self._step()[: self._rows]
        self._graph.replay()
        if self._kept is not None:
            self._kept.add(self._entering.clone())
        return self._out[: self._rows]

    def end(self) -> None:
        """The batch has ended: its states are the scoring's alone."""
        self._kept = None

    def keep(self, rows: Tensor) -> bool:
        """All rows are kept: the shape is the plan's."""
        return False

    def left(self, rows: Tensor, logits: Tensor) -> Prefilled:
        """These rows in a cache of their own."""
        cache = DynamicCache(config=self._model.config)
        for grown, fixed in zip(cache.layers, self._cache.layers, strict=True):
            keys, values = (t[: self._rows, :, : self._filled][rows] for t in (fixed.keys, fixed.values))
            fill(grown, keys, values, self._filled)
        mask = self._mask[: self._rows, 0, 0, : self._filled] == 0
        return Prefilled(mask[rows], logits[rows], cache, ())

    def _step(self) -> Tensor:
        logits: Tensor = self._model(
            input_ids=self._token, attention_mask=self._mask, position_ids=self._at,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits

    def _captured(self) -> torch.cuda.CUDAGraph:
        before = 0 if self._kept is None else len(self._kept.steps)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with patched(self._model, self._adapters):
            with torch.cuda.stream(aside):
                for _ in range(2):  # libraries allocate what they need at their first calls
                    self._step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._arena.pool):
                self._out = self._step()
        if self._kept is not None:
            self._entering = self._kept.last
            del self._kept.steps[before:]
        self._rewind()
        return graph

    def _rewind(self) -> None:
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._filled)


class FixedPlans:
    """The plans of a model, by shape; the least recently used leaves, and all of them where a larger one is needed."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._plans: OrderedDict[Any, FixedPlan] = OrderedDict()
        self._arena, self._largest = Arena(), 0

    def start(self, read: Prefilled, at: Tensor, steps: int, stacks: Stacks, kept: Kept | None) -> FixedPlan:
        """A batch that decodes at most so many steps; its stacks are of `bucket(n)` rows."""
        rows, tokens = bucket(len(read.mask)), read.mask.shape[1]
        width = -(-(tokens + steps + 2) // WIDTH) * WIDTH
        if rows * width > self._largest:
            self.clear()
            self._largest = rows * width
        shapes = tuple((name, stacks[name].shape) for name in sorted(stacks))  # whichever row comes first
        key = (rows, width, shapes, None if kept is None else kept.first)
        plan = self._plans.pop(key, None)
        if plan is None:
            if len(self._plans) == PLANS:
                self._plans.popitem(last=False)
            plan = FixedPlan(self._model, rows, width, stacks, self._arena)
        self._plans[key] = plan
        plan.start(read, at, stacks, kept)
        return plan

    def clear(self) -> None:
        """Give back the memory."""
        self._plans.clear()
        self._arena, self._largest = Arena(), 0


@torch.no_grad()
def fixed_plans(model: PreTrainedModel) -> FixedPlans | None:
    """Plans for a model, None where its steps cannot be had in one shape: sliding windows, masks of other kinds."""
    ids = torch.arange(4, device=model.device).view(1, 4)
    mask = torch.ones_like(ids, dtype=torch.bool)
    try:
        out = model(input_ids=ids[:, :3], attention_mask=mask[:, :3], use_cache=True)
        if any(type(layer) is not DynamicLayer for layer in out.past_key_values.layers):
            return None
        read = Prefilled(mask[:, :3], out.logits[:, -1], out.past_key_values, (False,))
        found = FixedPlans(model).start(read, ids[:, 2:3], 1, {}, None).logits(ids[:, 3])
        wanted = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    same = torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2)
    return FixedPlans(model) if same else None
