"""Pydantic's complaints in plain words: the path in the file, what was got, what is needed.

Of `--set` `overrides` says it, of the paths of space and arms `checks`; the nearest spelling is `schema`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from haps_search.config.document import Problem, Where
from haps_search.config.schema import Members, child, is_model, keys, models, suggest, tag, tagged

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], data: Any) -> tuple[Model | None, list[Problem]]:
    """Check plain values against a model, strictly: no text where a number is due, no 1.0 for 1.

    Returns the model, or None with every problem.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        return None, _explain(model, data, error)


def show(value: Any) -> str:
    """A value as the user would write it, cut where long."""
    text = "null" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True)
class _Found:
    where: Where
    options: Members
    """What may stand there."""
    above: Members
    """What may stand one key up."""
    union: Where | None
    """A union without `type` that was passed on the way, and the member that complained."""
    member: Any
    error: Mapping[str, Any]


def _explain(model: type[BaseModel], data: Any, error: ValidationError) -> list[Problem]:
    found = _without_short([_locate(model, e) for e in error.errors(include_url=False)])
    problems: list[Problem] = []
    unions: set[Where] = set()
    for one in found:
        if one.union is None:
            problems.append(_problem(one))
        elif _speaks(one.member, _value(data, one.union)):
            problems.append(_problem(one))
            unions.add(one.union)
    for one in found:
        if one.union is not None and one.union not in unions:
            unions.add(one.union)
            problems.append(_no_member(model, data, one.union))
    return problems


def _without_short(found: list[_Found]) -> list[_Found]:
    """A list whose item is wrong is too short for pydantic as well."""
    return [
        one
        for one in found
        if one.error["type"] != "too_short"
        or not any(other.where[: len(one.where)] == one.where for other in found if other is not one)
    ]


def _locate(model: type[BaseModel], error: Any) -> _Found:
    """Pydantic's loc names union members as well as keys: walk the models to keep the keys only."""
    options: Members = (model,)
    above: Members = ()
    where: Where = ()
    union, member = None, None
    for part in error["loc"]:
        if part == "[key]":
            break
        if len(options) > 1 and (variant := tagged(options, part)):
            options = (variant,)
        elif len(options) > 1 and (named := [m for m in options if _label(m, str(part))]):
            union, member, options = where, named[0], (named[0],)
        else:
            above, options, where = options, child(options, part), (*where, part)
    return _Found(where, options, above, union, member, error)


def _label(member: Any, part: str) -> bool:
    if is_model(member):
        return part == member.__name__ or part.endswith(f" {member.__name__}]")  # of one with a validator
    name = getattr(get_origin(member) or member, "__name__", str(get_origin(member) or member))
    return part.startswith(f"{name.lower()}[") or part == name


def _speaks(member: Any, value: Any) -> bool:
    """Whether this member of the union is the one the user meant, by the kind of the value."""
    if isinstance(value, dict):
        return is_model(member) or get_origin(member) is dict
    return isinstance(value, list) and get_origin(member) is tuple


def _value(data: Any, where: Where) -> Any:
    for part in where:
        data = data[part]
    return data


def _no_member(model: type[BaseModel], data: Any, where: Where) -> Problem:
    options: Members = (model,)
    here = data
    for part in where:
        if isinstance(here, dict) and (variant := tagged(options, here.get("type"))):
            options = (variant,)
        options, here = child(options, part), here[part]
    needed = ", or ".join(_words(member) for member in options)
    return Problem(where, f"got {show(here)}, needs {needed}")


def _words(member: Any) -> str:
    if is_model(member):
        return f"a mapping with {', '.join(member.model_fields)}"
    args = get_args(member)
    if get_origin(member) is tuple:
        return f"a list of {_words(args[0])}"
    if args and get_origin(member) in (Union, UnionType):
        return " or ".join(_words(each) for each in args)
    names = {int: "whole numbers", float: "numbers", str: "texts", bool: "true or false"}
    return names.get(member) or ", ".join(str(a) for a in args) or str(member)


def _problem(found: _Found) -> Problem:
    kind, context = found.error["type"], found.error.get("ctx", {})
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(found)
    needed = _NEEDED.get(kind)
    if needed is not None:
        return Problem(found.where, f"got {show(found.error['input'])}, needs {needed.format(**context)}")
    text = str(found.error["msg"])
    return Problem(found.where, f"got {show(found.error['input'])}: {text[:1].lower()}{text[1:]}")


def _unknown(found: _Found) -> Problem:
    known = keys(found.above)
    return Problem(found.where, f"unknown key; {suggest(str(found.where[-1]), known)}")


def _missing(found: _Found) -> Problem:
    if found.where and isinstance(found.where[-1], int):
        return Problem(found.where, "missing: the list is too short")
    return Problem(found.where, "missing, and it has no default")


def _literal(found: _Found) -> Problem:
    allowed = [str(a) for member in found.options for a in get_args(member)]
    if "[key]" in found.error["loc"]:
        return Problem(found.where, f"unknown key; {suggest(str(found.where[-1]), keys(found.above))}")
    return Problem(found.where, _one_of(found.error["input"], allowed))


def _tag(found: _Found) -> Problem:
    given, where = found.error["input"], (*found.where, "type")
    if "type" not in given:
        return Problem(where, f"missing; needs {_either(_tags(found))}")
    return Problem(where, _one_of(given["type"], _tags(found)))


def _tags(found: _Found) -> list[str]:
    return [name for m in models(found.options) if (name := tag(m)) is not None]


def _one_of(given: Any, allowed: list[str]) -> str:
    text = f"got {show(given)}, needs {_either(allowed)}"
    hint = suggest(given, allowed) if isinstance(given, str) else ""
    return f"{text}; {hint}" if hint.startswith("did you mean") else text


def _either(allowed: list[str]) -> str:
    return allowed[0] if len(allowed) == 1 else f"one of {', '.join(allowed)}"


def _mapping(found: _Found) -> Problem:
    known = keys(found.options)
    named = f" with {', '.join(known)}" if known else ""
    if len(found.options) > 1:
        named = f" with type: {_either(_tags(found))}"
    return Problem(found.where, f"got {show(found.error['input'])}, needs a mapping{named}")


def _own(found: _Found) -> Problem:
    """A check of ours; where it names a key below its model, the problem moves to that key."""
    text = str(found.error["msg"]).removeprefix("Value error, ")
    head, colon, rest = text.partition(": ")
    options, where = found.options, found.where
    for part in head.split("."):
        options, where = child(options, part), (*where, int(part) if part.isdigit() else part)
    return Problem(where, rest) if colon and options else Problem(found.where, text)


_SPECIAL: dict[str, Callable[[_Found], Problem]] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "literal_error": _literal,
    "union_tag_invalid": _tag,
    "union_tag_not_found": _tag,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "dict_type": _mapping,
    "value_error": _own,
}

_NEEDED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (put quotes around it)",
    "string_too_short": "text of at least {min_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
