"""From rewards to what candidates are to score, and from their gradients to what the router learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haps_search.config.learning import LearningConfig
from haps_search.learning.advantage import Advantages
from haps_search.lora.adapter import learnt_tensors
from haps_search.types import (
    Distribution,
    Episode,
    GivenCompletion,
    Rollouts,
    Routes,
    ScoreRequest,
    Scores,
)

if TYPE_CHECKING:
    from torch import Tensor

Requests = Mapping[str, Mapping[int, ScoreRequest]]
"""Per candidate and question what is to be scored."""


def score_requests(
    routes: Routes,
    episodes: Sequence[Sequence[Episode]],
    weighed: Sequence[Advantages],
    distribution: Distribution,
    kl_weight: float,
) -> Requests:
    """All completions that were drawn under an adapter, with their weights in the loss (design section 3a):

    1/(QG) * sum over episodes and completions of (-advantage * log p + kl_weight * KL).
    """
    share = 1.0 / sum(len(row) for row in episodes)
    given: dict[tuple[int, str], list[GivenCompletion]] = {}
    for q, (row, advantage) in enumerate(zip(episodes, weighed, strict=True)):
        for episode, weight in zip(row, advantage.completion, strict=True):
            for said in episode.completions:
                if (q, said.candidate) in routes.adapters:
                    one = GivenCompletion(said.messages, said.sampled.token_ids, -share * weight, share * kl_weight)
                    given.setdefault((q, said.candidate), []).append(one)
    found: dict[str, dict[int, ScoreRequest]] = {}
    for (q, name), completions in given.items():
        reference = routes.references.get((q, name))
        request = ScoreRequest(tuple(completions), routes.adapters[q, name], distribution, reference)
        found.setdefault(name, {})[q] = request
    return found


def rollouts(
    routes: Routes,
    weighed: Sequence[Advantages],
    requests: Requests,
    scores: Mapping[str, Scores],
    config: LearningConfig,
) -> Rollouts:
    """The signal of one step, from what `score_requests` asked for and was given."""
    chosen = config.route == "sampled"  # a greedy choice was never drawn, so it has no log-probability to weight
    gradients = adapter_gradients(requests, scores)
    return Rollouts(
        version=routes.version,
        assignments=routes.assignments,
        architecture_advantages=tuple(c.architecture if chosen else (0.0,) * len(c.architecture) for c in weighed),
        adapter_gradients=gradients.first,
        further_gradients=gradients.further,
    )


@dataclass(frozen=True, slots=True)
class Gradients:
    """As in `types.Rollouts`."""

    first: Mapping[tuple[int, str], Tensor]
    further: Mapping[tuple[int, str, int], Tensor]


def adapter_gradients(requests: Requests, scores: Mapping[str, Scores]) -> Gradients:
    """Of all that was asked for."""
    first: dict[tuple[int, str], Tensor] = {}
    further: dict[tuple[int, str, int], Tensor] = {}
    for name, asked in requests.items():
        for (q, place), gradient in _gradients(asked, scores[name]).items():
            if place == 0:
                first[q, name] = gradient
            else:
                further[q, name, place] = gradient
    return Gradients(first, further)


def _gradients(asked: Mapping[int, ScoreRequest], scores: Scores) -> dict[tuple[int, int], Tensor]:
    """By question and place among its adapter's learnt tensors; what questions share has its sum at the first of them.
    Zeros where nothing weighed, so that the optimiser's moments go on as ever."""
    adapters = {q: request.adapter for q, request in asked.items() if request.adapter is not None}
    found = zip(learnt_tensors(adapters.values()), scores.gradients, strict=True)
    gradients = {id(tensor): gradient for tensor, gradient in found}
    zeros: dict[tuple[int, ...], Tensor] = {}
    first = {id(tensor): q for q, adapter in reversed(adapters.items()) for tensor in adapter.learnt}
    by_question = {}
    for q, adapter in adapters.items():
        for place, tensor in enumerate(adapter.learnt):
            if first[id(tensor)] == q:
                nothing = zeros.setdefault(tuple(tensor.shape), _zeros(tensor))
                gradient = gradients[id(tensor)]
                by_question[q, place] = nothing if gradient is None else gradient
    return by_question


def _zeros(like: Any) -> Any:
    """In a trial's process on Ray numbers are arrays, without torch."""
    return np.zeros_like(like) if isinstance(like, np.ndarray) else like.new_zeros(like.shape)
