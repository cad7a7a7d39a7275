"""Setting values deep inside plain values, with the schema as guide."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from haps_search.config.document import Where, dotted
from haps_search.config.schema import Members, child, exists, keys, models, nearest, origin_of, paths, suggest, tagged
from haps_search.errors import ConfigError


def put(root: type[BaseModel], data: Any, path: str, value: Any) -> Where:
    """Set the value at a dotted path of `data`, in place; returns the path as keys.

    What is not written yet on the way is filled from the schema's defaults. A key that picks a variant
    (`type`) drops the keys that the new variant does not know.

    Raises:
        ConfigError: no such path, with the nearest spelling.
    """
    options: Members = (root,)
    here: Any = data
    where: Where = ()
    parts = path.split(".")
    while True:
        key, parts = _next(options, here, parts, where, root)
        where = (*where, key)
        if not parts:
            _assign(options, here, key, value)
            return where
        variant = _variant(options, here)
        below = child(variant, key) or child(options, key)
        here = _enter(variant, here, key, models_have=bool(child(tuple(models(below)), parts[0])))
        options = below


def _next(
    options: Members, here: Any, parts: list[str], where: Where, root: type[BaseModel]
) -> tuple[str | int, list[str]]:
    """The next key and what remains; keys of the space contain dots, so the longest one written wins."""
    if any(origin_of(o) is dict for o in options) and not keys(options):
        written = [n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in here]
        n = written[0] if written else len(parts)
        return ".".join(parts[:n]), parts[n:]
    if not exists(options, parts[:1]):
        raise ConfigError(_unknown(options, parts[0], where, root, ".".join(parts)))
    if isinstance(here, list):
        if not parts[0].isdigit() or int(parts[0]) >= len(here):
            raise ConfigError(f"{dotted(where)} has {len(here)} items, counted from 0")
        return int(parts[0]), parts[1:]
    return parts[0], parts[1:]


def _unknown(options: Members, part: str, where: Where, root: type[BaseModel], rest: str) -> str:
    known = keys(options)
    prefix = f"{dotted(where)}." if where else ""
    if not known:
        kind = "a list: give an index" if any(origin_of(o) is tuple for o in options) else "a single value"
        return f"nothing stands below {dotted(where)}, it is {kind}"
    if nearest(part, known) is None and (close := nearest(rest, paths((root,)))):
        return f"no such path; did you mean {close}?"
    return f"no such path; {suggest(f'{prefix}{part}', [f'{prefix}{k}' for k in known])}"


def _variant(options: Members, here: Any) -> Members:
    """The one member of a union that the written `type` picks."""
    picked = tagged(options, here.get("type")) if isinstance(here, dict) else None
    return (picked,) if picked is not None and len(options) > 1 else options


def _enter(options: Members, here: Any, key: str | int, models_have: bool) -> Any:
    """The container under `key`: made from the default where there is none, a mapping where one is needed."""
    if isinstance(key, str) and key not in here:
        here[key] = _default(options, key)
    if not isinstance(here[key], (dict, list)) or (isinstance(here[key], list) and models_have):
        here[key] = {}
    return here[key]


def _default(options: Members, key: str) -> Any:
    fields = [m.model_fields[key] for m in models(options) if key in m.model_fields]
    default = fields[0].get_default(call_default_factory=True) if fields else PydanticUndefined
    return {} if default is PydanticUndefined else to_jsonable_python(default)


def _assign(options: Members, here: Any, key: str | int, value: Any) -> None:
    variant = tagged(options, value) if key == "type" else None
    if variant is not None:
        for unknown in [k for k in here if k not in variant.model_fields]:
            del here[unknown]
    here[key] = value


def replaced(root: type[BaseModel], values: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model's plain values with dotted paths replaced, wholes before their parts.

    Raises:
        ConfigError: a path that the model does not have.
    """
    changed = copy.deepcopy(dict(values))
    for path in sorted(parameters, key=_wholes_first):
        put(root, changed, path, copy.deepcopy(parameters[path]))
    return changed


def _wholes_first(path: str) -> tuple[int, bool]:
    """A variant is chosen before its fields are set."""
    return path.count("."), not path.endswith(".type")
