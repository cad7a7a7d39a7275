"""An outcome table: what every assignment earned on every question, measured or imported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haps_search.types import Assignment, Question


@dataclass(frozen=True)
class OutcomeTable:
    """N questions x C assignments. Made by importers and by `haps collect`, read by warm-up, replay and inspect.

    `rewards` (N, C) float32 is NaN where a cell is missing, and the mean where it was measured `samples` (N, C)
    times. `costs` (N, C) float32, in the table's own money, is None where nobody knows them. `tasks[i]` is "" and
    `splits[i]` None where the table does not say.
    """

    questions: tuple[Question, ...]
    tasks: tuple[str, ...]
    splits: tuple[str | None, ...]
    assignments: tuple[Assignment, ...]
    rewards: NDArray[np.float32]
    samples: NDArray[np.int32]
    costs: NDArray[np.float32] | None = None
