"""What the configuration models allow at a path, and the nearest right spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Members = tuple[Any, ...]
"""The types a value may have at a place: one, or the members of a union (None left out)."""


def origin_of(annotation: Any) -> Any:
    """`dict` of `dict[str, int]`; None for a plain type."""
    return get_origin(annotation)


def members(annotation: Any) -> Members:
    """The types an annotation stands for."""
    origin = origin_of(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(m for part in get_args(annotation) for m in members(part))
    return () if annotation is NoneType else (annotation,)


def is_model(member: Any) -> bool:
    """Whether a member is a configuration model, and so a mapping with fixed keys."""
    return isinstance(member, type) and issubclass(member, BaseModel)


def models(options: Members) -> list[type[BaseModel]]:
    """The members that are configuration models."""
    return [m for m in options if is_model(m)]


def tag(model: type[BaseModel]) -> str | None:
    """The one value of a model's `type`, by which a union tells its members apart."""
    field = model.model_fields.get("type")
    values = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    return values[0] if len(values) == 1 else None


def tagged(options: Members, value: Any) -> type[BaseModel] | None:
    """The member whose `type` is `value`."""
    return next((m for m in models(options) if isinstance(value, str) and tag(m) == value), None)


def child(options: Members, key: str | int) -> Members:
    """What may stand under `key`; empty where no member has it."""
    return tuple(found for member in options for found in _child(member, key))


def _child(member: Any, key: str | int) -> Members:
    if member is Any:
        return (Any,)
    if is_model(member):
        return members(member.model_fields[key].annotation) if key in member.model_fields else ()
    origin, args = origin_of(member), get_args(member)
    if origin is dict:
        named = get_args(args[0]) if get_origin(args[0]) is Literal else None
        return members(args[1]) if named is None or key in named else ()
    if origin is tuple and str(key).isdigit():
        item = args[:1] if args[-1] is Ellipsis else args[int(key) : int(key) + 1]
        return members(item[0]) if item else ()
    return ()


def keys(options: Members) -> list[str]:
    """The keys that are known at a place."""
    known: list[str] = []
    for member in options:
        origin, args = origin_of(member), get_args(member)
        if is_model(member):
            known += member.model_fields
        elif origin is dict and get_origin(args[0]) is Literal:
            known += get_args(args[0])
    return list(dict.fromkeys(known))


def exists(options: Members, parts: Sequence[str]) -> bool:
    """Whether some member has this path."""
    for part in parts:
        options = child(options, part)
    return bool(options)


def paths(options: Members, prefix: str = "") -> Iterator[str]:
    """Every dotted path below a place, variants of a union together."""
    for key in keys(options):
        path = f"{prefix}{key}"
        yield path
        yield from paths(child(options, key), f"{path}.")


SYNONYMS = {"credit": "advantage", "delta": "adapter", "utterance": "completion", "worth": "utility"}
"""What others call a thing -> the word used here; no two spellings of them are close."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known spelling closest to `word`, if any is close."""
    known = list(known)
    for other, own in SYNONYMS.items():
        word = word.replace(other, own)
    inside = [k for k in known if k.endswith(f".{word}")]
    close = inside or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return close[0] if close else None


def suggest(word: str, known: Iterable[str], kind: str = "known here") -> str:
    """`did you mean ...?`, or the list of what is known."""
    known = list(dict.fromkeys(known))
    close = nearest(word, known)
    if close is not None:
        return f"did you mean {close}?"
    return f"{kind}: {', '.join(known)}" if known else f"{kind}: nothing"
