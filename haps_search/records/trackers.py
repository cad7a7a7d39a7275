"""Trackers beside MLflow, by name: ours, and what other packages announce under an entry point group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from haps_search.config.schema import suggest
from haps_search.errors import ConfigError
from haps_search.records.tracker import Tracker

GROUP = "haps_search.trackers"
Opener = Callable[[Path, str, Mapping[str, Any]], Tracker]
"""The sweep's folder, the run's name and its parameters -> its tracker, made or found again. It keeps to what
`records.tracker.Tracker` says; `tests/contracts/test_trackers.py` holds that for ours."""


def opener(name: str) -> Opener:
    """The tracker of that name.

    Raises:
        ConfigError: no such tracker, or it is not installed, with the way out.
    """
    announced = {point.name: point for point in entry_points(group=GROUP)}
    if name in announced:
        loaded: Opener = announced[name].load()
        return loaded
    if name != "tensorboard":
        known = ["tensorboard", *announced]
        raise ConfigError(f"tracking.also: no tracker {name}; {suggest(name, known, 'there are')} (group {GROUP})")
    if find_spec("tensorboardX") is None:
        raise ConfigError("tracking.also: tensorboard needs a library: pip install 'haps-search[tensorboard]'")
    return _tensorboard


def _tensorboard(sweep: Path, run: str, parameters: Mapping[str, Any]) -> Tracker:
    from haps_search.records.tensorboard_tracker import TensorboardTracker

    return TensorboardTracker(sweep / "tensorboard" / run, parameters)
