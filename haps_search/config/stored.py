"""Configurations as earlier versions wrote them, before a key was there whose default is another thing today."""

from __future__ import annotations

from typing import Any

_COMPARING = ("f1", "exact", "regex", "multiple_choice")
"""The rewards that were there before `normaliser` was."""
_ALL_CHOOSE, _THE_FIRST = {"choosing_share": 1.0}, {"drawn": "first"}
"""What `run.validation` meant before it said so."""


def as_stored(value: Any) -> Any:
    """JSON values of a stored configuration in which every reward says how it compares: by `v1`, where it did not say,
    and every experiment which validation questions choose, all, and which of them validate a run, the first, where it
    did not say.

    What the user writes is not stored: there a reward that says nothing means `default`.
    """
    if isinstance(value, list):
        return [as_stored(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: as_stored(each) for key, each in value.items()}
    if "candidates" in found and isinstance(found.get("run"), dict):
        return {**found, "run": _of_run(_ALL_CHOOSE | _THE_FIRST, found["run"])}
    if found.get("type") in _COMPARING:
        return {**found, "normaliser": found.get("normaliser", "v1")}
    if found.get("type") == "qa" and "reward" not in found:
        return {**found, "reward": {"type": "f1", "normaliser": "v1"}}
    return found


def before_halves(value: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a stored study, or of a trial's parameters, from before validation questions were parted: all of
    them chose, and all were reported on."""
    return _validated_with(_ALL_CHOOSE, value)


def before_draws(value: dict[str, Any]) -> dict[str, Any]:
    """The same from before validation questions were drawn: the first of a file validated a run."""
    return _validated_with(_THE_FIRST, value)


def _validated_with(meant: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    found = dict(value)
    if isinstance(found.get("experiment"), dict):
        found["experiment"] = _validated_with(meant, found["experiment"])
    if isinstance(found.get("run"), dict):
        found["run"] = _of_run(meant, found["run"])
    if isinstance(found.get("run.validation"), dict):
        found["run.validation"] = {**meant, **found["run.validation"]}
    if isinstance(found.get("arms"), dict):
        found["arms"] = {name: _validated_with(meant, arm) for name, arm in found["arms"].items()}
    return found


def _of_run(meant: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "validation": {**meant, **run.get("validation", {})}}
