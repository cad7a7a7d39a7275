"""What installed packages register: tasks under the entry point group `haps_search.tasks`, rewards under
`haps_search.rewards`. An entry point names what is called with the options of the study.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from haps_search.config.rewards import PluginReward
from haps_search.config.tasks import PluginTask
from haps_search.errors import ConfigError


def made_by_package(config: PluginTask | PluginReward) -> Any:
    """What the package makes of the options.

    Raises:
        ConfigError: no such entry point, or it does not load, or does not take the options.
    """
    where = "task.name" if isinstance(config, PluginTask) else "task.reward.name"
    known = {point.name: point for point in entry_points(group=config.GROUP)}
    if config.name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{where}: no installed package registers {config.name} (group {config.GROUP}): {there}")
    point = known[config.name]
    try:
        return point.load()(**config.options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"{where}: {point.value} with {config.options} failed: {error}") from error
