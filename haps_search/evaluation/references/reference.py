"""What a reference is to the rest: it reads training questions and scores others."""

from __future__ import annotations

from typing import ClassVar, Protocol

from haps_search.evaluation.references.labelled import Labelled, Unlabelled
from haps_search.evaluation.routing_metrics.cells import Floats


class Reference(Protocol):
    """A router that needs no search."""

    reachable: ClassVar[bool]
    """Whether a router could be this good: False for what reads the rewards it is judged by."""

    def fit(self, train: Labelled, seed: int) -> None:
        """Learn from training questions; whatever is drawn follows from the seed.

        Raises:
            ConfigError: the questions lack what this reference needs.
        """
        ...

    def scores(self, questions: Unlabelled) -> Floats:
        """The predicted reward of each assignment on each question, (N, C), finite; the largest is chosen."""
        ...
