"""RouteLLM's bilinear score of a question and an assignment."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from haps_search.evaluation.references.labelled import Labelled, Unlabelled, last_where_unknown
from haps_search.evaluation.routing_metrics.routes import Floats

LEARNING_RATE = 1e-2


class MatrixFactorisation:
    """score(m, q) = w2 . (v_m * (W1 v_q + b)), v_m of length 1 (RouteLLM, arXiv 2406.18665).

    v_q is the question's features, W1 (d, D), v_m (d,) one vector per assignment, w2 (d,). RouteLLM fits differences
    of two scores to preferences; here rewards are known, so each score is fitted to its cell by squared error, and
    is a reward. AdamW over all cells at once for `steps` steps.

    Missing cells are left out of the loss. An assignment without any measured one comes last, whatever its vector.
    """

    reachable: ClassVar[bool] = True

    def __init__(self, dimensions: int, weight_decay: float, steps: int) -> None:
        self._dimensions, self._weight_decay, self._steps = dimensions, weight_decay, steps

    def fit(self, train: Labelled, seed: int) -> None:
        features = torch.from_numpy(train.features).float()
        rewards = torch.from_numpy(train.rewards).float()
        measured = ~rewards.isnan()
        self._known, self._worst = measured.any(0).numpy(), float(rewards[measured].min())
        known, cells = rewards.nan_to_num(), measured.sum()
        self._model = _Bilinear(features.shape[1], rewards.shape[1], self._dimensions, seed)
        optimiser = torch.optim.AdamW(self._model.parameters(), lr=LEARNING_RATE, weight_decay=self._weight_decay)
        for _ in range(self._steps):
            loss = ((self._model(features) - known) * measured).square().sum() / cells
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def scores(self, questions: Unlabelled) -> Floats:
        found: Tensor = self._model(torch.from_numpy(questions.features).float())
        return last_where_unknown(found.numpy(), self._known, self._worst)


class _Bilinear(nn.Module):
    """Features (n, D) to scores (n, C)."""

    def __init__(self, features: int, assignments: int, dimensions: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * shape[-1] ** -0.5)

        self.question, self.bias = drawn(dimensions, features), nn.Parameter(torch.zeros(dimensions))
        self.assignment, self.weight = drawn(assignments, dimensions), drawn(dimensions)

    def forward(self, features: Tensor) -> Tensor:
        read = features @ self.question.T + self.bias
        scores: Tensor = (read * self.weight) @ normalize(self.assignment, dim=1).T
        return scores
