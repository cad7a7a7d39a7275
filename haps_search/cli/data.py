"""A look at the user's data before anything expensive starts."""

from __future__ import annotations

from haps_search.config.run import Experiment
from haps_search.config.tasks import FunctionReward
from haps_search.config.tasks import QaTask as QaConfig
from haps_search.tasks.build import build_task
from haps_search.tasks.qa import QaTask
from haps_search.tasks.user_function import load_function


def read_task(experiment: Experiment) -> list[str]:
    """Read train and validation, and find the user's own reward; what should be known of them, a line each.

    Raises:
        ConfigError, DataError: files, rows or functions that trials would stumble over.
    """
    task = build_task(experiment.task)
    for split in ("train", "validation"):
        task.questions(split)
    if not isinstance(task, QaTask) or not isinstance(experiment.task, QaConfig):
        return []
    if isinstance(experiment.task.reward, FunctionReward):
        load_function(experiment.task.reward.function)
    remarks = [
        f"warning: {count} contexts of {split} are cut at {experiment.task.max_context_chars} characters"
        for split, count in task.truncated.items()
        if count
    ]
    leaks = task.leaks()
    if leaks:
        remarks.append(f"warning: {leaks} validation questions stand in train too; rewards there will flatter")
    return remarks
