"""Per-example LoRA: every row of a batch runs under its own adapter, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from haps_search.lora.row_adapters import RowAdapters
from haps_search.lora.stacks import Stack, Stacks

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def injected(
    model: nn.Module, adapters: RowAdapters, lengths: Sequence[int] | None = None
) -> AbstractContextManager[list[Update]]:
    """While open, row i of every batch through `model` runs under adapter i. Hooks go also when the body raises.

    `lengths`: what goes through are rows of so many tokens one after the other.
    """
    return patched(model, adapters.stacks(), lengths)


@contextmanager
def patched(model: nn.Module, stacks: Stacks, lengths: Sequence[int] | None = None) -> Iterator[list[Update]]:
    """The same, from the matrices themselves."""
    updates: list[Update] = []
    handles: list[RemovableHandle] = []
    try:
        for name, stack in stacks.items():
            updates.append(Update(stack, lengths))
            handles.append(model.get_submodule(name).register_forward_hook(updates[-1]))
        yield updates
    finally:
        for handle in handles:
            handle.remove()


class Update:
    """What a patched module adds to its output, row by row."""

    def __init__(self, stack: Stack, lengths: Sequence[int] | None = None) -> None:
        self._stack, self._lengths = stack, None if lengths is None else list(lengths)

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
        elif self._lengths is not None:
            update = self._one_after_the_other(x, a_t, b_t, self._lengths)
        elif self._stack.slots is None:
            # Some models flatten (n, T, d) to (n T, d) before their MLP.
            update = (x.reshape(len(a_t), -1, x.shape[-1]) @ a_t) @ b_t
        else:
            update = self._grouped(x, a_t, b_t, self._stack.slots.to(x.device))
        return output + update.reshape(output.shape).to(output.dtype)

    def _one_after_the_other(self, x: Tensor, a_t: Tensor, b_t: Tensor, lengths: list[int]) -> Tensor:
        rows = nn.utils.rnn.pad_sequence(list(x.reshape(-1, x.shape[-1]).split(lengths)), batch_first=True)
        slots = self._stack.slots
        found = (rows @ a_t) @ b_t if slots is None else self._grouped(rows, a_t, b_t, slots.to(x.device))
        return torch.cat([row[:length] for row, length in zip(found, lengths, strict=True)])

    def _grouped(self, x: Tensor, a_t: Tensor, b_t: Tensor, slots: Tensor) -> Tensor:
        """Each A and B is read once, whoever shares it."""
        rows = x.reshape(len(slots), -1, x.shape[-1])
        padded = rows.new_zeros(len(a_t) * self._stack.width, *rows.shape[1:]).index_copy(0, slots, rows)
        update = (padded.reshape(len(a_t), -1, x.shape[-1]) @ a_t) @ b_t
        return update.reshape(len(padded), rows.shape[1], -1)[slots]
