"""The adapters of a batch's rows as one graph, in which what rows share stands once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from haps_search.lora.adapter import learnt_tensors, matrices
from haps_search.lora.stacks import Stack, Stacks
from haps_search.types import Adapter, AdapterLayout


class RowAdapters:
    """The adapters of a batch's rows: each distinct tensor of theirs is one leaf of the graph, whoever shares it.

    Rows may differ in rank, scaling, patched modules and number of parts; a row without an adapter is the frozen
    model. The ranks of an adapter's parts stand one after the other.
    """

    def __init__(self, adapters: Sequence[Adapter | None], dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.learnt = len(adapters), learnt_tensors(adapters)
        # bf16 and fp16 models keep float32 adapters; a float64 model lifts them to its own precision.
        self.dtype = torch.promote_types(torch.float32, dtype)
        self._leaves = _Leaves(adapters, device, self.dtype)
        self._depths: list[dict[AdapterLayout, list[tuple[int, Adapter]]]] = []
        for row, adapter in enumerate(adapters):
            for depth, part in enumerate(adapter.parts if adapter is not None else ()):
                if depth == len(self._depths):
                    self._depths.append({})
                self._depths[depth].setdefault(part.layout, []).append((row, part))

    def require_gradients(self) -> None:
        self._leaves.require_gradients()

    def gradients(self, states: Tensor, along: Tensor) -> list[Tensor]:
        """d total / d tensor for each of `learnt`, on the device; `along` is d total / d states, in their shape."""
        return self._leaves.gradients(states, along, self.learnt)

    def stacks(self) -> Stacks:
        parts: dict[str, list[Stack]] = {}
        for depth in self._depths:
            members: dict[str, list[_Member]] = {}
            for layout, held in depth.items():
                distinct = {_identity(part): part for _, part in held}
                place = {identity: number for number, identity in enumerate(distinct)}
                flat = self._leaves.flat(list(distinct.values()))
                rows, owners = [row for row, _ in held], [place[_identity(part)] for _, part in held]
                for target, (a, b) in zip(layout.targets, matrices(layout, flat), strict=True):
                    stack = Stack.of(owners, a, layout.scaling * b)
                    members.setdefault(target.name, []).append(_Member(rows, stack))
            for name, some in members.items():
                parts.setdefault(name, []).append(self._spread(some))
        return {name: self._beside(some) for name, some in parts.items()}

    def _spread(self, members: Sequence[_Member]) -> Stack:
        """One stack for all rows, r the largest rank among them; 0 for rows that nobody patches."""
        if len(members) == 1 and len(members[0].rows) == self.rows:
            return members[0].stack
        like, rank = members[0].stack, max(member.stack.a.shape[1] for member in members)
        all_a = like.a.new_zeros(self.rows, rank, like.a.shape[2])
        all_b = like.b.new_zeros(self.rows, like.b.shape[1], rank)
        for member in members:
            a, b = member.stack.of_rows(len(member.rows))
            index = torch.tensor(member.rows, device=a.device)
            all_a = all_a.index_add(0, index, nn.functional.pad(a, (0, 0, 0, rank - a.shape[1])))
            all_b = all_b.index_add(0, index, nn.functional.pad(b, (0, rank - b.shape[2])))
        return Stack(all_a, all_b)

    def _beside(self, parts: Sequence[Stack]) -> Stack:
        """Ranks one after the other, so that the update is the sum of the parts' updates."""
        if len(parts) == 1:
            return parts[0]
        several = [stack for stack in parts if len(stack.a) > 1]
        if len(several) == 1:
            rows = len(several[0].a)
            pairs = [(stack.a.expand(rows, -1, -1), stack.b.expand(rows, -1, -1)) for stack in parts]
        else:  # each is shared in its own way, or all by all rows
            pairs = [stack.of_rows(self.rows if several else 1) for stack in parts]
        a, b = torch.cat([a for a, _ in pairs], 1), torch.cat([b for _, b in pairs], 2)
        return replace(several[0], a=a, b=b) if len(several) == 1 else Stack(a, b)


@dataclass(frozen=True, slots=True)
class _Member:
    """Rows of a batch, and what they add to a module."""

    rows: list[int]
    stack: Stack


class _Leaves:
    """The distinct tensors of some adapters on the device, those of one shape as one stack."""

    def __init__(self, adapters: Sequence[Adapter | None], device: torch.device, dtype: torch.dtype) -> None:
        parts = [part for adapter in adapters if adapter is not None for part in adapter.parts]
        by_shape: dict[torch.Size, dict[int, Tensor]] = {}
        for tensor in (t for part in parts for t in (part.values, part.mix) if t is not None):
            by_shape.setdefault(tensor.shape, {})[id(tensor)] = tensor
        self._held = by_shape  # an id means its tensor while the tensor lives
        self._stacks = {s: _sent(torch.stack(list(some.values())), device, dtype) for s, some in by_shape.items()}
        self._at = {key: (shape, i) for shape, some in by_shape.items() for i, key in enumerate(some)}

    def require_gradients(self) -> None:
        for stack in self._stacks.values():
            stack.requires_grad_()

    def flat(self, parts: Sequence[Adapter]) -> Tensor:
        """The numbers (len(parts), P) of parts of one layout; those of a bank are mixed."""
        if any(part.mix is not None for part in parts):
            return torch.stack([self._mixed(part) for part in parts])
        stack, places = self._stacks[parts[0].values.shape], [self._at[id(part.values)][1] for part in parts]
        return stack if places == list(range(len(stack))) else stack[torch.tensor(places, device=stack.device)]

    def _mixed(self, part: Adapter) -> Tensor:
        return self._one(part.values) if part.mix is None else self._one(part.mix) @ self._one(part.values)

    def _one(self, tensor: Tensor) -> Tensor:
        shape, place = self._at[id(tensor)]
        return self._stacks[shape][place]

    def gradients(self, states: Tensor, along: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
        shapes = list(dict.fromkeys(self._at[id(tensor)][0] for tensor in wanted))
        found = torch.autograd.grad(states, [self._stacks[shape] for shape in shapes], along)
        by_shape = dict(zip(shapes, found, strict=True))
        places = [self._at[id(tensor)] for tensor in wanted]
        return [by_shape[shape][place] for shape, place in places]


def _identity(part: Adapter) -> tuple[int, int]:
    """Parts of one layout with the same identity have the same numbers."""
    return id(part.values), id(part.mix)


def _sent(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """To the device; a GPU fetches it while the CPU goes on."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True).to(dtype)
    return values.to(device, dtype)


def on_cpu(gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients on the CPU, one transfer for all of a shape."""
    by_shape: dict[torch.Size, list[int]] = {}
    for place, gradient in enumerate(gradients):
        if gradient is not None:
            by_shape.setdefault(gradient.shape, []).append(place)
    found = list(gradients)
    for places in by_shape.values():
        some = torch.stack([each for place in places if (each := gradients[place]) is not None]).cpu()
        for place, gradient in zip(places, some, strict=True):
            found[place] = gradient
    return tuple(found)
