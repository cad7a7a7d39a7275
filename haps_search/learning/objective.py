"""From rewards and returned gradients to what the router learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from haps_search.config.learning import LearningConfig
from haps_search.learning.credit import SCHEMES, Credits
from haps_search.types import Episode, Rollouts, Routes


def rollouts(
    routes: Routes,
    episodes: Sequence[Sequence[Episode]],
    rewards: Sequence[Sequence[float]],
    config: LearningConfig,
) -> Rollouts:
    """The signal of one step (design section 3a): Q rows of G episodes.

    Per (question, candidate) the gradient of the loss with respect to the delta is
    1/(QG) * sum over episodes and utterances of (-credit * d log p + kl_weight * d KL).
    """
    scheme = SCHEMES[config.credit]
    credits = [scheme(row, zs) for row, zs in zip(rewards, routes.assignments, strict=True)]
    chosen = config.route == "sampled"  # a greedy choice was never drawn, so it has no log-probability to weight
    share = 1.0 / sum(len(row) for row in episodes)
    gradients: dict[tuple[int, str], Tensor] = {}
    for q, (row, credit) in enumerate(zip(episodes, credits, strict=True)):
        for name, gradient in _delta_gradients(row, credit, config.kl_weight):
            total = gradients.get((q, name))
            gradients[q, name] = share * gradient if total is None else total.add_(gradient, alpha=share)
    return Rollouts(
        version=routes.version,
        assignments=routes.assignments,
        architecture_credits=tuple(c.architecture if chosen else (0.0,) * len(c.architecture) for c in credits),
        delta_gradients=gradients,
    )


def _delta_gradients(episodes: Sequence[Episode], credits: Credits, kl_weight: float) -> list[tuple[str, Tensor]]:
    found = []
    for episode, credit in zip(episodes, credits.utterance, strict=True):
        for utterance in episode.utterances:
            response = utterance.response
            if response.gradient is None:
                continue
            gradient = response.gradient * -credit
            if response.kl_gradient is not None:
                gradient = torch.add(gradient, response.kl_gradient, alpha=kl_weight)
            found.append((utterance.candidate, gradient))
    return found
