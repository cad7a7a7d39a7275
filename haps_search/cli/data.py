"""A look at the user's data before anything expensive starts."""

from __future__ import annotations

from haps_search.config.run import Experiment
from haps_search.tasks.build import build_task
from haps_search.tasks.task import Inspected


def read_task(experiment: Experiment) -> list[str]:
    """Read train and validation; what should be known of them, a line each.

    Raises:
        ConfigError, DataError: files, rows or functions that trials would stumble over.
    """
    task = build_task(experiment.task)
    if isinstance(task, Inspected):
        return task.remarks()
    for split in ("train", "validation"):
        task.questions(split)
    return []
