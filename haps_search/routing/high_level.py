"""The high-level router: which candidate plays which role."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from haps_search.config.routing import FixedHighLevel, HeadHighLevel, LmHighLevel, RandomHighLevel
from haps_search.errors import ConfigError
from haps_search.routing.distribution import AssignmentDistribution, JointDistribution


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


class Lm(nn.Module):
    """What the backbone scores, made a distribution (paper, high-level router).

    joint: p(z) = softmax over all K^R assignments of (score - prior) / temperature; otherwise p(z) is the product over
    roles of a softmax over the K candidates. No weights of its own: it learns where the backbone does, and on a frozen
    one it routes zero-shot. The prior is 0 until it is taken.
    """

    prior: Tensor

    def __init__(self, config: LmHighLevel, roles: int, names: tuple[str, ...], joint: bool, learns: bool) -> None:
        super().__init__()
        self.learns = learns
        self.calibrated = config.ids == "single_token"
        self._temperature, self._joint = config.temperature, joint
        self._roles, self._names = roles, names
        count = len(names) ** roles if joint else roles * len(names)
        self.register_buffer("prior", torch.zeros(count), persistent=False)

    def forward(self, scores: Tensor) -> AssignmentDistribution | JointDistribution:
        """`scores` are (n, K^R) where joint, otherwise (n, R * K), roles first."""
        log_p = self._normalised((scores - self.prior.to(scores)) / self._temperature)
        if self._joint:
            return JointDistribution(log_p.squeeze(1), self._names, self._roles)
        return AssignmentDistribution(log_p, self._names)

    @torch.no_grad()
    def take_prior(self, scores: Tensor) -> None:
        """Take off from now on what is answered without content: the log of the mean p over the `scores` of prompts
        that ask nothing (contextual calibration: Zhao et al., ICML 2021)."""
        self.prior = self._normalised(scores).exp().mean(0).log().flatten()

    def _normalised(self, logits: Tensor) -> Tensor:
        """log p, (n, 1, K^R) where joint, otherwise (n, R, K)."""
        groups = (1, -1) if self._joint else (self._roles, len(self._names))
        return torch.log_softmax(logits.unflatten(-1, groups), -1)


def build_high_level(
    config: HeadHighLevel | FixedHighLevel | RandomHighLevel, width: int, roles: int, names: tuple[str, ...]
) -> Head | Constant:
    """The high level of a configuration that reads pooled states.

    Raises ConfigError for an assignment of the wrong length.
    """
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
