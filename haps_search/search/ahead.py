"""Steps whose rollouts may begin while the router still learns from those before (`run.staleness`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from haps_search.config.run import Experiment
from haps_search.learning.advantage import RunningMeans
from haps_search.search.engine import Engine
from haps_search.search.step import Played, learn, played, route
from haps_search.tasks.task import Task
from haps_search.types import Question


class Ahead:
    """Takes the steps of a run. A step is told which questions follow, or None where the next is to begin with the
    updated router: before whatever is saved, so that a resumed run is the run that was not interrupted.
    """

    def __init__(self, engine: Engine, task: Task, experiment: Experiment, means: RunningMeans) -> None:
        """`means` are what candidates earned in the steps before; every step adds its own."""
        self._engine, self._task, self._experiment, self._means = engine, task, experiment, means
        self._said: Played | None = None

    async def step(
        self, questions: Sequence[Question], index: int, following: Sequence[Question] | None
    ) -> dict[str, float]:
        """Step `index`; while it learns, the `following` questions are played as the router before it routes them."""
        engine, task, experiment = self._engine, self._task, self._experiment
        began = time.perf_counter()
        said, self._said = self._said, None
        if said is None:
            said = await played(engine, task, await route(engine, questions, experiment, index), experiment)
        if following is None:
            metrics = await learn(engine, task, said, experiment, self._means)
        else:
            routed = await route(engine, following, experiment, index + 1)
            metrics, self._said = await asyncio.gather(
                learn(engine, task, said, experiment, self._means), played(engine, task, routed, experiment)
            )
        # Rollouts of two steps overlap: a step takes as long as one waits for it.
        return metrics | {"step_seconds": time.perf_counter() - began}
