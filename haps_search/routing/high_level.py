"""The high-level router: which candidate plays which role."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haps_search.config.routing import FixedHighLevel, HeadHighLevel, RandomHighLevel
from haps_search.errors import ConfigError
from haps_search.types import Assignment


@dataclass(frozen=True)
class AssignmentDistribution:
    """A distribution over assignments that factorises over roles: `log_p` is (n, R, K), rows sum to one."""

    log_p: Tensor
    names: tuple[str, ...]

    def sample(self, draws: int, generator: torch.Generator) -> list[list[Assignment]]:
        """`draws` assignments per question."""
        rows, roles, candidates = self.log_p.shape
        flat = self.log_p.detach().exp().reshape(-1, candidates).cpu()
        picks = torch.multinomial(flat, draws, replacement=True, generator=generator).view(rows, roles, draws)
        return [[self._assignment(picks[q, :, g]) for g in range(draws)] for q in range(rows)]

    def best(self) -> list[list[Assignment]]:
        """The likeliest assignment per question."""
        return [[self._assignment(row)] for row in self.log_p.detach().argmax(-1).cpu()]

    def log_probability(self, assignments: Sequence[Sequence[Assignment]]) -> Tensor:
        """(n, G)."""
        index = torch.tensor(
            [[[self.names.index(name) for name in z] for z in row] for row in assignments],
            device=self.log_p.device,
        )  # (n, G, R)
        return self.log_p.gather(2, index.transpose(1, 2)).sum(1)

    def entropy(self) -> Tensor:
        """Nats, (n,)."""
        return -(self.log_p.exp() * self.log_p).sum((-1, -2))

    def _assignment(self, row: Tensor) -> Assignment:
        return tuple(self.names[int(k)] for k in row)


class Head(nn.Module):
    """One softmax per role over the candidates, linear in the pooled backbone; uniform at the start."""

    learns = True

    def __init__(self, width: int, roles: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, roles * len(names))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self._roles, self._names = roles, names

    def forward(self, pooled: Tensor) -> AssignmentDistribution:
        logits = self.linear(pooled).unflatten(-1, (self._roles, len(self._names)))
        return AssignmentDistribution(torch.log_softmax(logits, -1), self._names)


class Constant(nn.Module):
    """A distribution that is the same for every question and learns nothing."""

    learns = False
    log_p: Tensor

    def __init__(self, log_p: Tensor, names: tuple[str, ...]) -> None:
        super().__init__()
        self.register_buffer("log_p", log_p, persistent=False)
        self._names = names

    def forward(self, pooled: Tensor) -> AssignmentDistribution:
        expanded = self.log_p.to(pooled.dtype).expand(len(pooled), -1, -1)
        return AssignmentDistribution(expanded, self._names)


def build_high_level(
    config: HeadHighLevel | FixedHighLevel | RandomHighLevel, width: int, roles: int, names: tuple[str, ...]
) -> Head | Constant:
    """The high level of a configuration. Raises ConfigError for an assignment of the wrong length."""
    if isinstance(config, HeadHighLevel):
        return Head(width, roles, names)
    if isinstance(config, RandomHighLevel):
        return Constant(torch.full((roles, len(names)), 1.0 / len(names)).log(), names)
    if len(config.assignment) != roles:
        raise ConfigError(
            f"routing.high_level.assignment: {len(config.assignment)} candidates for {roles} roles of the task"
        )
    chosen = torch.zeros(roles, len(names))
    for role, name in enumerate(config.assignment):
        chosen[role, names.index(name)] = 1.0
    # Impossible candidates get a log-probability whose product with its own exponential is zero, not NaN.
    return Constant(chosen.log().clamp_min(-1e4), names)


def all_assignments(names: Sequence[str], roles: int) -> list[Assignment]:
    """All K^R assignments, the first role varying slowest."""
    return list(itertools.product(names, repeat=roles))
