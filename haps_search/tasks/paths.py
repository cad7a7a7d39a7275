"""Values inside rows by dotted paths: `answers.text`, `choices.label`, and keys that have dots of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class NoField(Exception):
    """Nothing is there under a name; `known` are the names at that place."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.name, self.known = name, tuple(known)


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value under a path: a key of the row itself, or of what lies below it.

    Below a list of objects it is the list of their values, so `choices.text` reads both `{"text": [...]}` and
    `[{"text": ...}, ...]`. Of keys with dots the longest that is there is taken. Raises NoField.
    """
    if path in row:
        return row[path]
    cut = path.rfind(".")
    while cut > 0:
        if path[:cut] in row:
            return _below(row[path[:cut]], path[cut + 1 :], path)
        cut = path.rfind(".", 0, cut)
    raise NoField(path, row)


def _below(value: Any, path: str, whole: str) -> Any:
    if isinstance(value, Mapping):
        return value_at(value, path)
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        return [value_at(each, path) for each in value]
    raise NoField(whole, ())


def root(path: str, columns: Iterable[str]) -> str | None:
    """The column that a path begins in, None where there is none."""
    there = [name for name in columns if path == name or path.startswith(f"{name}.")]
    return max(there, key=len, default=None)
