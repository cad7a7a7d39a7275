"""Configurations as earlier versions wrote them, before a key was there whose default is another thing today."""

from __future__ import annotations

from typing import Any

_COMPARING = ("f1", "exact", "regex", "multiple_choice")
"""The rewards that were there before `normaliser` was."""


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
        return {**found, "run": _undrawn(_all_choosing(found["run"]))}
    if found.get("type") in _COMPARING:
        return {**found, "normaliser": found.get("normaliser", "v1")}
    if found.get("type") == "qa" and "reward" not in found:
        return {**found, "reward": {"type": "f1", "normaliser": "v1"}}
    return found


def before_halves(value: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a stored study, or of a trial's parameters, from before validation questions were parted: all of
    them chose, and all were reported on."""
    found = dict(value)
    if isinstance(found.get("experiment"), dict):
        found["experiment"] = before_halves(found["experiment"])
    if isinstance(found.get("run"), dict):
        found["run"] = _all_choosing(found["run"])
    if isinstance(found.get("run.validation"), dict):
        found["run.validation"] = {"choosing_share": 1.0, **found["run.validation"]}
    if isinstance(found.get("arms"), dict):
        found["arms"] = {name: before_halves(arm) for name, arm in found["arms"].items()}
    return found


def before_draws(value: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a stored study, or of a trial's parameters, from before validation questions were drawn: the first
    of a file validated a run."""
    found = dict(value)
    if isinstance(found.get("experiment"), dict):
        found["experiment"] = before_draws(found["experiment"])
    if isinstance(found.get("run"), dict):
        found["run"] = _undrawn(found["run"])
    if isinstance(found.get("run.validation"), dict):
        found["run.validation"] = {"drawn": "first", **found["run.validation"]}
    if isinstance(found.get("arms"), dict):
        found["arms"] = {name: before_draws(arm) for name, arm in found["arms"].items()}
    return found


def _all_choosing(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "validation": {"choosing_share": 1.0, **run.get("validation", {})}}


def _undrawn(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "validation": {"drawn": "first", **run.get("validation", {})}}
