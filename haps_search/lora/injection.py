"""Per-example LoRA: every row of a batch runs under its own adapter, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from haps_search.lora.row_adapters import RowAdapters
from haps_search.lora.stacks import Stack, Stacks

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def injected(model: nn.Module, adapters: RowAdapters) -> AbstractContextManager[list[Update]]:
    """While open, row i of every batch through `model` runs under adapter i. Hooks go also when the body raises."""
    return patched(model, adapters.stacks())


@contextmanager
def patched(model: nn.Module, stacks: Stacks) -> Iterator[list[Update]]:
    """The same, from the matrices themselves."""
    updates: list[Update] = []
    handles: list[RemovableHandle] = []
    try:
        for name, stack in stacks.items():
            updates.append(Update(stack))
            handles.append(model.get_submodule(name).register_forward_hook(updates[-1]))
        yield updates
    finally:
        for handle in handles:
            handle.remove()


class Update:
    """What a patched module adds to its output, row by row."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, named by a mask (rows,)."""
        stack = self._stack
        if stack.slots is not None:
            self._stack = Stack.of((stack.slots // stack.width)[rows].tolist(), stack.a, stack.b)
        elif len(stack.a) > 1:
            self._stack = Stack(stack.a[rows], stack.b[rows])

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        # A model's layers may lie on several devices, its adapters lie on the first.
        x = inputs[0].to(self._stack.a.dtype)
        a_t, b_t = self._stack.a.mT.to(x.device), self._stack.b.mT.to(x.device)
        if len(a_t) == 1:
            update = (x @ a_t[0]) @ b_t[0]
        elif self._stack.slots is None:
            # Some models flatten (n, T, d) to (n T, d) before their MLP.
            update = (x.reshape(len(a_t), -1, x.shape[-1]) @ a_t) @ b_t
        else:
            update = self._grouped(x, a_t, b_t, self._stack.slots.to(x.device))
        return output + update.reshape(output.shape).to(output.dtype)

    def _grouped(self, x: Tensor, a_t: Tensor, b_t: Tensor, slots: Tensor) -> Tensor:
        """Each A and B is read once, whoever shares it."""
        rows = x.reshape(len(slots), -1, x.shape[-1])
        padded = rows.new_zeros(len(a_t) * self._stack.width, *rows.shape[1:]).index_copy(0, slots, rows)
        update = (padded.reshape(len(a_t), -1, x.shape[-1]) @ a_t) @ b_t
        return update.reshape(len(padded), rows.shape[1], -1)[slots]
