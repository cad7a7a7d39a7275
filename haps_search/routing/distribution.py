"""Distributions over assignments: a product over roles, or one over all of them together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from haps_search.types import Assignment


class Distribution(Protocol):
    """A distribution over the assignments of each of n questions; gradients flow through every tensor."""

    def sample(self, draws: int, generator: torch.Generator) -> list[list[Assignment]]:
        """`draws` assignments per question."""
        ...

    def best(self) -> list[list[Assignment]]:
        """The likeliest assignment per question, in a row of its own."""
        ...

    def log_probability(self, assignments: Sequence[Sequence[Assignment]]) -> Tensor:
        """(n, G) of `assignments[q][g]`."""
        ...

    def log_p_all(self) -> Tensor:
        """(n, K^R), in the order of `all_assignments`."""
        ...

    def marginals(self) -> Tensor:
        """(n, R, K): the probability of each candidate in each role."""
        ...

    def entropy(self) -> Tensor:
        """Nats, (n,)."""
        ...


@dataclass(frozen=True)
class AssignmentDistribution:
    """A distribution that factorises over roles: `log_p` is (n, R, K), rows sum to one."""

    log_p: Tensor
    names: tuple[str, ...]

    def sample(self, draws: int, generator: torch.Generator) -> list[list[Assignment]]:
        rows, roles, candidates = self.log_p.shape
        flat = self.log_p.detach().exp().reshape(-1, candidates).cpu()
        picks = torch.multinomial(flat, draws, replacement=True, generator=generator).view(rows, roles, draws)
        return [[self._assignment(picks[q, :, g]) for g in range(draws)] for q in range(rows)]

    def best(self) -> list[list[Assignment]]:
        return [[self._assignment(row)] for row in self.log_p.detach().argmax(-1).cpu()]

    def log_probability(self, assignments: Sequence[Sequence[Assignment]]) -> Tensor:
        index = torch.tensor(
            [[[self.names.index(name) for name in z] for z in row] for row in assignments],
            device=self.log_p.device,
        )  # (n, G, R)
        return self.log_p.gather(2, index.transpose(1, 2)).sum(1)

    def log_p_all(self) -> Tensor:
        total = self.log_p[:, 0]
        for role in range(1, self.log_p.shape[1]):
            total = (total.unsqueeze(-1) + self.log_p[:, role].unsqueeze(1)).flatten(1)
        return total

    def marginals(self) -> Tensor:
        return self.log_p.exp()

    def entropy(self) -> Tensor:
        return -(self.log_p.exp() * self.log_p).sum((-1, -2))

    def _assignment(self, row: Tensor) -> Assignment:
        return tuple(self.names[int(k)] for k in row)


@dataclass(frozen=True)
class JointDistribution:
    """A distribution over all assignments together: `log_p` is (n, K^R), in the order of `all_assignments`."""

    log_p: Tensor
    names: tuple[str, ...]
    roles: int

    def sample(self, draws: int, generator: torch.Generator) -> list[list[Assignment]]:
        picks = torch.multinomial(self.log_p.detach().exp().cpu(), draws, replacement=True, generator=generator)
        return self._assignments(picks)

    def best(self) -> list[list[Assignment]]:
        return self._assignments(self.log_p.detach().argmax(-1, keepdim=True))

    def log_probability(self, assignments: Sequence[Sequence[Assignment]]) -> Tensor:
        column = {z: c for c, z in enumerate(all_assignments(self.names, self.roles))}
        index = torch.tensor([[column[z] for z in row] for row in assignments], device=self.log_p.device)
        return self.log_p.gather(1, index)

    def log_p_all(self) -> Tensor:
        return self.log_p

    def marginals(self) -> Tensor:
        p = self.log_p.exp().unflatten(1, (len(self.names),) * self.roles)
        others = [[d + 1 for d in range(self.roles) if d != role] for role in range(self.roles)]
        # A sum over no dimensions would be a sum over all.
        return torch.stack([p.sum(dims) if dims else p for dims in others], 1)

    def entropy(self) -> Tensor:
        return -(self.log_p.exp() * self.log_p).sum(-1)

    def _assignments(self, columns: Tensor) -> list[list[Assignment]]:
        everything = all_assignments(self.names, self.roles)
        return [[everything[c] for c in row] for row in columns.tolist()]


def all_assignments(names: Sequence[str], roles: int) -> list[Assignment]:
    """All K^R assignments, the first role varying slowest."""
    return list(itertools.product(names, repeat=roles))
