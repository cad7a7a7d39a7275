"""Is this the same configuration? One hash to compare, and words for what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def fingerprint(config: Mapping[str, Any]) -> str:
    """sha256 of the configuration's canonical JSON (sorted keys, no spaces). Tuples count as lists."""
    return hashlib.sha256(_canonical(config).encode()).hexdigest()


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Dotted paths whose values differ, each with both values, in order of the path."""
    left, right = dict(_leaves(_plain(theirs))), dict(_leaves(_plain(ours)))
    return [
        f"{path}: stored {_show(left, path)}, now {_show(right, path)}"
        for path in sorted(left.keys() | right.keys())
        if _show(left, path) != _show(right, path)
    ]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain(config: Mapping[str, Any]) -> Any:
    return json.loads(_canonical(config))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaf paths with their JSON. Empty containers are leaves, so that `{}` and absent differ."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value)) if _is_inner(value) else []
    if not items:
        yield path, _canonical(value)
    for key, inner in items:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def _is_inner(value: Any) -> bool:
    return isinstance(value, dict | list)


def _show(leaves: Mapping[str, str], path: str) -> str:
    return leaves.get(path, "absent")
