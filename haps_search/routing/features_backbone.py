"""A backbone over frozen features of the routing prompt."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from haps_search.config.learning import COST_WEIGHT, CostRange, LearningConfig
from haps_search.config.routing import FeaturesBackboneConfig
from haps_search.routing.features.block import FeatureBlock
from haps_search.types import Question


class FeaturesBackbone(nn.Module):
    """Texts to states (n, H): h = MLP([s * features; 2 * (ln w - ln low) / (ln high - ln low) - 1]).

    `s` brings the features of unit length per block to a mean square of one. The second input, there where cost is
    conditioned on, is the question's weight of cost w on a scale from -1 to 1. Without hidden layers h is the input.
    """

    device = torch.device("cpu")
    head_dtype = torch.float32

    def __init__(
        self, config: FeaturesBackboneConfig, blocks: Sequence[FeatureBlock], learning: LearningConfig
    ) -> None:
        super().__init__()
        self._blocks, self._range = tuple(blocks), learning.cost_conditioned
        self._weight, self._dropout = learning.cost_weight, config.dropout
        features = sum(block.width for block in blocks)
        self._scale = math.sqrt(features / len(blocks))
        widths = [features + (self._range is not None), *config.hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.width, self.learns = widths[-1], bool(config.hidden)

    @classmethod
    def load(
        cls,
        config: FeaturesBackboneConfig,
        learning: LearningConfig,
        training: Sequence[str],
        known: Sequence[str],
        cache: Path,
    ) -> FeaturesBackbone:
        """Fitted on `training` texts, with those of `known` at hand. Raises CandidateError for a missing encoder."""
        return cls(config, [FeatureBlock(each, training, known, cache) for each in config.features], learning)

    def forward(self, texts: Sequence[str], questions: Sequence[Question], noise: torch.Generator | None) -> Tensor:
        """`noise` says which features are left out; None leaves out none."""
        rows = [torch.from_numpy(block.rows(texts)) for block in self._blocks]
        states = torch.cat(rows, 1) * self._scale
        if noise is not None and self._dropout:
            kept = torch.rand(states.shape, generator=noise) >= self._dropout
            states = states * kept / (1 - self._dropout)
        if self._range is not None:
            states = torch.cat([states, self._weights(questions, self._range)], 1)
        read: Tensor = self.layers(states)
        return read

    def apart(self) -> FeaturesBackbone:
        """A copy with weights of its own, equal at this moment."""
        twin = copy.copy(self)
        twin.__dict__ = {**self.__dict__, "_modules": {"layers": copy.deepcopy(self.layers)}}
        return twin

    def fitted(self) -> dict[str, Tensor]:
        """What was fitted on texts, `BLOCK.NAME`; it never changes in training."""
        return {
            f"{number}.{name}": torch.from_numpy(value)
            for number, block in enumerate(self._blocks)
            for name, value in block.fitted.items()
        }

    def refit(self, fitted: Mapping[str, Tensor]) -> None:
        """Read as the run does that this was fitted for. Raises ValueError where shapes or names differ."""
        own = self.fitted()
        if own.keys() != fitted.keys():
            raise ValueError(f"got {', '.join(fitted) or 'nothing'}, needs {', '.join(own) or 'nothing'}")
        for number, block in enumerate(self._blocks):
            block.refit({name: fitted[f"{number}.{name}"].numpy() for name in block.fitted})

    def _weights(self, questions: Sequence[Question], limits: CostRange) -> Tensor:
        said = [float(question.attributes.get(COST_WEIGHT, self._weight)) for question in questions]
        return torch.tensor([[limits.told(weight)] for weight in said])
