"""What the rows of a batch add to a module, without a copy for every row where rows share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 2**20
"""So many numbers are copied sooner than rows that share them are grouped."""
SPARE = 2
"""Groups of unequal size are padded; where more than so many times the rows would be computed, numbers are copied."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What rows add to a module: the distinct A (u, r, d_in) and scaled B (u, d_out, r) among them.

    A single one is that of all rows. With `slots` (n,) rows share them in groups of at most `width`: row i stands at
    `slots[i]` of (u, width). Without, row i has number i.
    """

    a: Tensor
    b: Tensor
    slots: Tensor | None = None
    width: int = 1

    @classmethod
    def of(cls, owners: Sequence[int], a: Tensor, b: Tensor) -> Stack:
        """Row i has number `owners[i]`."""
        if len(a) == 1 or list(owners) == list(range(len(a))):
            return cls(a, b)
        taken = [0] * len(a)
        places = []
        for owner in owners:
            places.append((owner, taken[owner]))
            taken[owner] += 1
        width = max(taken)
        copied = (len(owners) - len(a)) * (a[0].numel() + b[0].numel())
        if copied < SMALL or len(a) * width > SPARE * len(owners):
            index = torch.tensor(owners, device=a.device)
            return cls(a[index], b[index])
        slots = [owner * width + place for owner, place in places]
        return cls(a, b, torch.tensor(slots, device=a.device), width)

    @property
    def shape(self) -> tuple[object, ...]:
        """What stacks have in common that take each other's place."""
        return self.a.shape, self.b.shape, None if self.slots is None else len(self.slots), self.width

    def copied(self) -> Stack:
        """The same in tensors of its own."""
        return Stack(self.a.clone(), self.b.clone(), None if self.slots is None else self.slots.clone(), self.width)

    def take(self, other: Stack) -> None:
        """Take over the numbers of a stack of the same shape, in place."""
        self.a.copy_(other.a)
        self.b.copy_(other.b)
        if self.slots is not None and other.slots is not None:
            self.slots.copy_(other.slots)

    def of_rows(self, rows: int) -> tuple[Tensor, Tensor]:
        """A (rows, r, d_in) and B (rows, d_out, r), a copy for every row where they are shared."""
        if self.slots is None:
            return self.a.expand(rows, -1, -1), self.b.expand(rows, -1, -1)
        owners = self.slots // self.width
        return self.a[owners], self.b[owners]


Stacks = dict[str, Stack]
"""Per module name."""
