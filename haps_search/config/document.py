"""A YAML text as plain values, with the line each path was written on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from haps_search.errors import ConfigError

Where = tuple[str | int, ...]
"""Keys and list indices from the top of a file down to a value."""

_MAP = "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a place of a file; `text` says got, needed and the way out."""

    where: Where
    text: str
    line: int | None = None
    """Where the place itself is ambiguous (a key written twice); else the place's own line is looked up."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds. `lines` counts from 1; `problems` are keys written twice."""

    value: Any
    lines: dict[Where, int]
    problems: tuple[Problem, ...]


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, except that `1e-3` is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(text: str, source: str) -> Document:
    """Parse YAML text.

    Raises:
        ConfigError: not YAML, with line and column.
    """
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Document(None, {}, ())
        problems = tuple(_twice(root, (), set()))
        lines: dict[Where, int] = {}
        return Document(_build(loader, root, (), lines, ()), lines, problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f" {error.context}" if error.context else ""
        raise ConfigError(f"{place}not valid YAML: {error.problem}{context}", source) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", source) from error
    finally:
        if loader is not None:
            loader.dispose()


def scalar(text: str) -> Any:
    """One YAML value, as it stands after `--set path=`.

    Raises:
        ConfigError: not YAML.
    """
    return read(text, "").value


def dotted(where: Where) -> str:
    """`("run", "steps")` as `run.steps`."""
    return ".".join(str(part) for part in where)


def render(problem: Problem, lines: dict[Where, int]) -> str:
    """One line of text: path, line of the file or `--set`, what is wrong."""
    line = problem.line if problem.line is not None else line_of(problem.where, lines)
    origin = "" if line is None else " (--set)" if line == FROM_OVERRIDE else f" (line {line})"
    path = dotted(problem.where) or "the file"
    return f"{path}{origin}: {problem.text}"


FROM_OVERRIDE = 0
"""The line of a value that came from `--set`."""


def line_of(where: Where, lines: dict[Where, int]) -> int | None:
    """The line of a path, or of the nearest path above it that the file has."""
    for end in range(len(where), 0, -1):
        if where[:end] in lines:
            return lines[where[:end]]
    return None


def _twice(node: yaml.Node, where: Where, seen: set[int]) -> Iterator[Problem]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _twice(item, (*where, index), seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in first and key.value != "<<":
                yield Problem((*where, key.value), f"written twice, first on line {first[key.value]}", line)
            first.setdefault(str(key.value), line)
            yield from _twice(value, (*where, str(key.value)), seen)


def _build(loader: _Loader, node: yaml.Node, where: Where, lines: dict[Where, int], above: tuple[int, ...]) -> Any:
    if id(node) in above:
        raise yaml.constructor.ConstructorError(None, None, "an alias that contains itself", node.start_mark)
    lines.setdefault(where, node.start_mark.line + 1)
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
        loader.flatten_mapping(node)
        return {
            name: _build(loader, value, _at(key, (*where, name), lines), lines, above)
            for key, value in node.value
            for name in [_key(key)]
        }
    if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
        return [_build(loader, item, (*where, i), lines, above) for i, item in enumerate(node.value)]
    value = loader.construct_object(node, deep=True)
    return value if value is None or isinstance(value, (str, int, float)) else str(node.value)


def _at(key: yaml.Node, where: Where, lines: dict[Where, int]) -> Where:
    lines[where] = key.start_mark.line + 1
    return where


def _key(node: yaml.Node) -> str:
    """The key as written, so that `on:` is not the key True."""
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", node.start_mark)
    return str(node.value)
