"""Configurations as earlier versions wrote them, before a key was there whose default is another thing today."""

from __future__ import annotations

from typing import Any

_COMPARING = ("f1", "exact", "regex", "multiple_choice")
"""The rewards that were there before `normaliser` was."""


def as_stored(value: Any) -> Any:
    """JSON values of a stored configuration in which every reward says how it compares: by `v1`, where it did not say.

    What the user writes is not stored: there a reward that says nothing means `default`.
    """
    if isinstance(value, list):
        return [as_stored(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: as_stored(each) for key, each in value.items()}
    if found.get("type") in _COMPARING:
        return {**found, "normaliser": found.get("normaliser", "v1")}
    if found.get("type") == "qa" and "reward" not in found:
        return {**found, "reward": {"type": "f1", "normaliser": "v1"}}
    return found
