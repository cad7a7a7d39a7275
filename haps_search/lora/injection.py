"""Per-example LoRA: every row of a batch runs under its own adapter, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from haps_search.lora.adapter import learnt_tensors, matrices
from haps_search.types import Adapter, AdapterLayout

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Stacks = dict[str, tuple[Tensor, Tensor]]
"""Per module name: A (rows, r, d_in) and scaled B (rows, d_out, r); a single row where it is that of all rows."""


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
        """d total / d tensor for each of `learnt`, on the CPU; `along` is d total / d states, of the states' shape."""
        return self._leaves.gradients(states, along, self.learnt)

    def stacks(self) -> Stacks:
        """The rows' matrices; one row of them where all rows have the same."""
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for depth in self._depths:
            members: dict[str, list[_Member]] = {}
            for layout, held in depth.items():
                distinct = {_identity(part): part for _, part in held}
                place = {identity: number for number, identity in enumerate(distinct)}
                flat = self._leaves.flat(list(distinct.values()))
                rows, places = [row for row, _ in held], [place[_identity(part)] for _, part in held]
                for target, (a, b) in zip(layout.targets, matrices(layout, flat), strict=True):
                    members.setdefault(target.name, []).append(_Member(rows, places, a, layout.scaling * b))
            for name, some in members.items():
                parts.setdefault(name, []).append(self._spread(some))
        return {name: _beside(some) for name, some in parts.items()}

    def _spread(self, members: Sequence[_Member]) -> tuple[Tensor, Tensor]:
        """A and B of every row, r the largest rank among rows."""
        whole = members[0]
        if len(members) == 1 and len(whole.rows) == self.rows:
            return (whole.a, whole.b) if len(whole.a) == 1 else whole.of_rows()
        rank = max(member.a.shape[1] for member in members)
        all_a = whole.a.new_zeros(self.rows, rank, whole.a.shape[2])
        all_b = whole.b.new_zeros(self.rows, whole.b.shape[1], rank)
        for member in members:
            (a, b), index = member.of_rows(), torch.tensor(member.rows, device=whole.a.device)
            all_a = all_a.index_add(0, index, nn.functional.pad(a, (0, 0, 0, rank - a.shape[1])))
            all_b = all_b.index_add(0, index, nn.functional.pad(b, (0, rank - b.shape[2])))
        return all_a, all_b


@dataclass(frozen=True, slots=True)
class _Member:
    """Rows that patch a module alike: row `rows[i]` has `places[i]` of the distinct A (u, r, d_in), B (u, d_out, r)."""

    rows: list[int]
    places: list[int]
    a: Tensor
    b: Tensor

    def of_rows(self) -> tuple[Tensor, Tensor]:
        if self.places == list(range(len(self.a))):
            return self.a, self.b
        index = torch.tensor(self.places, device=self.a.device)
        return self.a[index], self.b[index]


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
        shapes = list({self._at[id(tensor)][0] for tensor in wanted})
        found = torch.autograd.grad(states, [self._stacks[shape] for shape in shapes], along)
        by_shape = {shape: gradient.cpu() for shape, gradient in zip(shapes, found, strict=True)}
        places = [self._at[id(tensor)] for tensor in wanted]
        return [by_shape[shape][place] for shape, place in places]


def _identity(part: Adapter) -> tuple[int, int]:
    """Parts of one layout with the same identity have the same numbers."""
    return id(part.values), id(part.mix)


def _beside(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Ranks one after the other, so that the update is the sum of the parts' updates."""
    if len(parts) == 1:
        return parts[0]
    rows = max(len(a) for a, _ in parts)
    all_a, all_b = ([t.expand(rows, -1, -1) for t in some] for some in zip(*parts, strict=True))
    return torch.cat(all_a, 1), torch.cat(all_b, 2)


def _sent(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """To the device; a GPU fetches it while the CPU goes on."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True).to(dtype)
    return values.to(device, dtype)


def injected(model: nn.Module, adapters: RowAdapters) -> AbstractContextManager[list[Update]]:
    """While open, row i of every batch through `model` runs under adapter i. Hooks go also when the body raises."""
    return patched(model, adapters.stacks())


@contextmanager
def patched(model: nn.Module, stacks: Stacks) -> Iterator[list[Update]]:
    """The same, from the matrices themselves."""
    updates: list[Update] = []
    handles: list[RemovableHandle] = []
    try:
        for name, (a, b) in stacks.items():
            updates.append(Update(a, b))
            handles.append(model.get_submodule(name).register_forward_hook(updates[-1]))
        yield updates
    finally:
        for handle in handles:
            handle.remove()


class Update:
    """What a patched module adds to its output, row by row; `a` and `b` of a single row are those of all rows."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a_t, self.b_t = a.mT, b.mT

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, named by a mask (rows,)."""
        if len(self.a_t) > 1:
            self.a_t, self.b_t = self.a_t[rows], self.b_t[rows]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        # A model's layers may lie on several devices, its adapters lie on the first.
        x = inputs[0].to(self.a_t.dtype)
        a_t, b_t = self.a_t.to(x.device), self.b_t.to(x.device)
        # Some models flatten (n, T, d) to (n T, d) before their MLP.
        update = (x @ a_t[0]) @ b_t[0] if len(a_t) == 1 else (x.reshape(len(a_t), -1, x.shape[-1]) @ a_t) @ b_t
        return output + update.reshape(output.shape).to(output.dtype)
