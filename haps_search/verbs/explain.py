"""What a key of a study or of a cluster profile means, and what may stand there: the docstrings of `config/`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.config.schema import (
    Members,
    child,
    exists,
    is_model,
    keys,
    members,
    models,
    origin_of,
    paths,
    suggest,
    tag,
)
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError

ROOTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("experiment.", Experiment),
    ("", Study),
    ("profile ", ClusterProfile),
)
"""What stands before a path -> where the path begins; looked through in order."""


@dataclass(frozen=True)
class Explained:
    """One key as one variant of its place has it. `below` are its own keys, each with what it means."""

    path: str
    variant: str
    kind: str
    default: str
    text: str
    below: tuple[tuple[str, str], ...] = ()


def explain(key: str) -> list[Explained]:
    """A dotted path as `--set` takes it, list items left out: one entry per variant that has it.

    Raises:
        ConfigError: no such key, with the nearest spelling.
    """
    parts = [part for part in key.removeprefix("experiment.").split(".") if not part.isdigit()]
    if parts[0] == "stages" and len(parts) > 1:
        parts = parts[1:]  # a stage has the paths of an experiment
    for before, root in ROOTS:
        found = list(_found(root, parts, before))
        if found:
            return found
    known = [path for _, root in ROOTS for path in paths((root,))]
    raise ConfigError(f"no key {key}; {suggest(key, known) if key else 'name one, as in learning.kl_weight'}")


def _found(root: type[BaseModel], parts: list[str], before: str) -> Iterator[Explained]:
    *way, last = parts
    options: Members = (root,)
    for part in way:
        options = child(_inside(options), part)
    seen: set[tuple[str, str, str]] = set()
    for model in models(_inside(options)):
        if last in model.model_fields:
            entry = _explained(model, last, f"{before}{'.'.join(parts)}")
            if (entry.kind, entry.default, entry.text) not in seen:  # variants that share a base say the same
                seen.add((entry.kind, entry.default, entry.text))
                yield entry
    if way and not seen and exists(options, [last]):  # a mapping with fixed keys, which its own key explains
        yield from _found(root, way, before)


def _explained(model: type[BaseModel], key: str, path: str) -> Explained:
    field = model.model_fields[key]
    options = members(field.annotation)
    default = field.get_default(call_default_factory=True)
    shown = "" if default is PydanticUndefined else str(to_jsonable_python(default))
    return Explained(
        path=path,
        variant=tag(model) or "",
        kind=" | ".join(_kind(option) for option in options) + (" | null" if _may_be_none(field.annotation) else ""),
        default=shown,
        text=inspect.cleandoc(field.description or _of_model(options)),
        below=tuple(_below(_inside(options))),
    )


def _of_model(options: Members) -> str:
    there = models(options)
    return (there[0].__doc__ or "") if len(there) == 1 else ""


def _below(options: Members) -> Iterator[tuple[str, str]]:
    """The variants of a place, or the keys of the one model that may stand there; each with its first sentence."""
    there = models(options)
    if len(there) == 1:
        for name in keys(options):
            yield name, _sentence(there[0].model_fields[name].description)
    else:
        for model in there:
            yield f"type: {tag(model)}", _sentence(model.__doc__)


def _inside(options: Members) -> Members:
    """What stands in a list, a mapping or a variable name's place, where the members are those."""
    found: list[Any] = []
    for option in options:
        origin, args = origin_of(option), get_args(option)
        if origin is tuple:
            found += members(args[0])
        elif origin is dict:
            found += members(args[1])
        else:
            found.append(option)
    return tuple(found)


def _kind(option: Any) -> str:
    if origin_of(option) is Literal:
        return " | ".join(map(str, get_args(option)))
    if is_model(option):
        return f"{{type: {tag(option)}}}" if tag(option) else "mapping"
    origin, args = origin_of(option), get_args(option)
    if origin is tuple:
        return "list of " + " | ".join(_kind(m) for m in members(args[0]))
    if origin is dict:
        return "mapping to " + " | ".join(_kind(m) for m in members(args[1]))
    return getattr(option, "__name__", str(option))


def _may_be_none(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _sentence(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\n", " ").split(". ")[0].rstrip(".")
