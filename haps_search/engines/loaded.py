"""A finished run in this process, for evaluating, asking and exporting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import CheckpointError
from haps_search.records.run_folder import RunFolder
from haps_search.tasks.build import build_task
from haps_search.tasks.task import Tabled, Task
from haps_search.types import Adapter, Question


@dataclass(frozen=True)
class LoadedRun:
    """The engine stands at the run's best checkpoint, taken at `step`."""

    experiment: Experiment
    task: Task
    engine: LocalEngine
    step: int

    def worded(self, question: Question) -> Question:
        """A user's question as the router of this run learnt to read questions."""
        return self.task.worded(question) if isinstance(self.task, Tabled) else question

    def adapters(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        """Adapters of every candidate for every question; empty where the low level is off."""
        return self.engine.all_adapters(questions)


def load_run(folder: Path, experiment: Experiment) -> LoadedRun:
    """Load candidates and router here.

    Raises:
        CheckpointError: the run has no checkpoint yet. CandidateError: a candidate does not load.
    """
    best = RunFolder(folder, experiment).best()
    if best is None:
        raise CheckpointError(f"{folder}: no validated checkpoint yet; let the run reach its first validation")
    task = build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)
    asyncio.run(engine.restore(best.snapshot))
    return LoadedRun(experiment, task, engine, best.step)
