"""Per-example LoRA: every row of a batch runs under its own adapter, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from haps_search.lora.adapter import matrices
from haps_search.types import Adapter, AdapterLayout

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Stacks = dict[str, tuple[Tensor, Tensor]]
"""Per module name: A (rows, r, d_in) and scaled B (rows, d_out, r)."""


class RowAdapters:
    """The adapters of a batch's rows as leaves of the graph, one stack per distinct layout.

    Rows may differ in rank, scaling and patched modules; a row without an adapter is the frozen model.
    """

    def __init__(self, adapters: Sequence[Adapter | None], dtype: torch.dtype, device: torch.device) -> None:
        self.rows = len(adapters)
        self._groups: dict[AdapterLayout, list[int]] = {}
        for row, adapter in enumerate(adapters):
            if adapter is not None:
                self._groups.setdefault(adapter.layout, []).append(row)
        # bf16 and fp16 models keep float32 adapters; a float64 model lifts them to its own precision.
        self.dtype = torch.promote_types(torch.float32, dtype)
        self.leaves = {
            layout: _sent(torch.stack([adapters[row].values for row in rows]), device, self.dtype)  # type: ignore[union-attr]
            for layout, rows in self._groups.items()
        }

    def require_gradients(self) -> None:
        for leaf in self.leaves.values():
            leaf.requires_grad_()

    def gradients(self, states: Tensor, along: Tensor, retain_graph: bool = False) -> list[Tensor | None]:
        """d total / d adapter of each row: (P,) tensors on the CPU, None for rows without an adapter.

        `along` is d total / d states, of the states' shape. Rows do not interact, so the gradient of a sum over
        rows is each row's own.
        """
        layouts = list(self.leaves)
        found = torch.autograd.grad(states, [self.leaves[x] for x in layouts], along, retain_graph=retain_graph)
        by_row: list[Tensor | None] = [None] * self.rows
        for layout, gradient in zip(layouts, found, strict=True):
            for row, values in zip(self._groups[layout], gradient.detach().cpu(), strict=True):
                by_row[row] = values
        return by_row

    def stacks(self) -> Stacks:
        """The rows' matrices, r the largest rank among rows."""
        parts: dict[str, list[tuple[list[int], Tensor, Tensor]]] = {}
        for layout, leaf in self.leaves.items():
            for target, (a, b) in zip(layout.targets, matrices(layout, leaf), strict=True):
                parts.setdefault(target.name, []).append((self._groups[layout], a, layout.scaling * b))
        return {name: self._spread(members) for name, members in parts.items()}

    def _spread(self, members: list[tuple[list[int], Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if len(members) == 1 and len(members[0][0]) == self.rows:
            return members[0][1], members[0][2]
        rank = max(a.shape[1] for _, a, _ in members)
        first_a, first_b = members[0][1], members[0][2]
        all_a = first_a.new_zeros(self.rows, rank, first_a.shape[2])
        all_b = first_b.new_zeros(self.rows, first_b.shape[1], rank)
        for rows, a, b in members:
            index = torch.tensor(rows, device=a.device)
            all_a = all_a.index_add(0, index, nn.functional.pad(a, (0, 0, 0, rank - a.shape[1])))
            all_b = all_b.index_add(0, index, nn.functional.pad(b, (0, rank - b.shape[2])))
        return all_a, all_b


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
    """What a patched module adds to its output, row by row."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a_t, self.b_t = a.mT, b.mT

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, named by a mask (rows,)."""
        self.a_t, self.b_t = self.a_t[rows], self.b_t[rows]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        # Some models flatten (n, T, d) to (n T, d) before their MLP.
        x = inputs[0].reshape(len(self.a_t), -1, inputs[0].shape[-1])
        # A model's layers may lie on several devices, its adapters lie on the first.
        update = (x.to(self.a_t.dtype) @ self.a_t.to(x.device)) @ self.b_t.to(x.device)
        return output + update.reshape(output.shape).to(output.dtype)
