"""A candidate whose answers stand in an outcome table."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from haps_search.errors import CandidateError
from haps_search.tasks.replay import ReplayTask
from haps_search.types import ModuleTable, Sampled, SampleRequest, ScoreRequest, Scores


class TableCandidate:
    """Implements `Candidate` by look-up: asked for a question's id, it says its score. No module can be patched."""

    def __init__(self, name: str, scores: NDArray[np.float32], place: Mapping[str, int]) -> None:
        """`scores` (N,) with NaN where missing; `place` is question id -> row."""
        self.table = ModuleTable(name, 0, ())
        self._scores, self._place = scores, place

    @classmethod
    def of(cls, name: str, task: ReplayTask) -> TableCandidate:
        """Raises ConfigError where the table has no such model."""
        return cls(name, task.table.rewards[:, task.column(name)], task.place)

    @property
    def room(self) -> int:
        """No bound: nothing is read or written."""
        return sys.maxsize

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return [self._look_up(request) for request in requests]

    def score(self, requests: Sequence[ScoreRequest]) -> Scores:
        """Nothing that was asked for can be answered; of what is left out there is nothing to say."""
        if any(request.asked for request in requests):
            raise CandidateError(
                f"{self.table.candidate}: a model of a table has no likelihoods: set routing.low_level: {{type: none}}"
            )
        return Scores(tuple((None,) * len(request.completions) for request in requests), ())

    def _look_up(self, request: SampleRequest) -> Sampled:
        name, asked = self.table.candidate, request.messages[-1].content
        if request.adapter is not None:
            raise CandidateError(f"{name}: a model of a table takes no adapter: set routing.low_level: {{type: none}}")
        if asked not in self._place:
            raise CandidateError(f"{name}: the table has no question `{asked}`")
        score = float(self._scores[self._place[asked]])
        if math.isnan(score):
            raise CandidateError(
                f"{name}: the table has no score of it on question `{asked}`: set learning.signal: outcomes, which "
                "leaves missing cells out, or task.table.missing: drop"
            )
        return Sampled(repr(score), (), (), 0, 0)
