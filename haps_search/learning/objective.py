"""From rewards and returned gradients to what the router learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from haps_search.config.learning import LearningConfig
from haps_search.learning.advantage import Advantages
from haps_search.types import Episode, Rollouts, Routes


def rollouts(
    routes: Routes,
    episodes: Sequence[Sequence[Episode]],
    advantages: Sequence[Advantages],
    config: LearningConfig,
) -> Rollouts:
    """The signal of one step (design section 3a): Q rows of G episodes and their advantages.

    Per (question, candidate) the gradient of the loss with respect to the adapter is
    1/(QG) * sum over episodes and completions of (-advantage * d log p + kl_weight * d KL).
    """
    chosen = config.route == "sampled"  # a greedy choice was never drawn, so it has no log-probability to weight
    share = 1.0 / sum(len(row) for row in episodes)
    gradients: dict[tuple[int, str], Tensor] = {}
    for q, (row, advantage) in enumerate(zip(episodes, advantages, strict=True)):
        for name, gradient in _adapter_gradients(row, advantage, config.kl_weight):
            total = gradients.get((q, name))
            gradients[q, name] = share * gradient if total is None else total.add_(gradient, alpha=share)
    return Rollouts(
        version=routes.version,
        assignments=routes.assignments,
        architecture_advantages=tuple(c.architecture if chosen else (0.0,) * len(c.architecture) for c in advantages),
        adapter_gradients=gradients,
    )


def _adapter_gradients(
    episodes: Sequence[Episode], advantages: Advantages, kl_weight: float
) -> list[tuple[str, Tensor]]:
    found = []
    for episode, advantage in zip(episodes, advantages.completion, strict=True):
        for completion in episode.completions:
            response = completion.response
            if response.gradient is None:
                continue
            gradient = response.gradient * -advantage
            if response.kl_gradient is not None:
                gradient = torch.add(gradient, response.kl_gradient, alpha=kl_weight)
            found.append((completion.candidate, gradient))
    return found
