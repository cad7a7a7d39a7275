"""From a task's configuration to the task."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from haps_search.config.tasks import ObjectTask, PluginTask, TaskConfig
from haps_search.tasks.own import passed, registered

if TYPE_CHECKING:
    from haps_search.tasks.task import Task

# Named, not imported: a broken task of another type is no concern of this run.
TASKS: dict[str, tuple[str, str]] = {
    "skills": ("haps_search.tasks.skills", "SkillsTask"),
    "qa": ("haps_search.tasks.qa", "QaTask"),
    "hotpotqa": ("haps_search.tasks.hotpotqa.task", "HotpotqaTask"),
    "replay": ("haps_search.tasks.replay", "ReplayTask"),
}


def build_task(config: TaskConfig) -> Task:
    """The task that a configuration describes.

    Raises:
        ConfigError: the configuration cannot run.
    """
    if isinstance(config, ObjectTask):
        return passed(config)
    if isinstance(config, PluginTask):
        return registered(config)
    module, name = TASKS[config.type]
    task: Task = getattr(importlib.import_module(module), name)(config)
    return task
