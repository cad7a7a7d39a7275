"""The base of every configuration model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Frozen, unknown keys refused, attribute docstrings kept as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"
"""Names become folders: no separator, nothing hidden, no way up."""
Name = Annotated[str, Field(pattern=NAME)]

_HOOK = r"^[\w.]+:\w+$"
Hook = Annotated[str, Field(pattern=_HOOK)]
"""`module:function`, the user's own Python code. Nothing else in a configuration names code but `trust_remote_code`."""


def hooks(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, what runs) of hooks in plain values of a study, of plugins and of models whose own code runs."""
    key = path.rpartition(".")[2]
    if isinstance(value, Mapping):
        if value.get("type") == "plugin":
            yield path, f"entry point {value.get('name')} of group haps_search.{key}s"
        for name, inner in value.items():
            yield from hooks(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from hooks(inner, path)
    elif key == "trust_remote_code" and value is True:
        yield path, "the model's own code"
    elif isinstance(value, str) and key in _hook_fields(Config):
        yield path, value


def _hook_fields(model: type[BaseModel]) -> set[str]:
    """Names of the fields of all configuration models that are a `Hook`."""
    own = {
        name
        for name, info in model.model_fields.items()
        if any(getattr(part, "pattern", None) == _HOOK for part in info.metadata)
    }
    return own.union(*(_hook_fields(below) for below in model.__subclasses__()))


_PLACES = (
    re.compile(r"(?<=://)(?P<kept>[^\s/@:]*:)[^\s/]+(?=@)"),
    re.compile(r"(?P<kept>[?&](?:password|passwd|token|secret|api_key)=)[^\s&#]+", re.IGNORECASE),
)


def concealed(text: str) -> str:
    """The text with `***` for every password in an address: `user:***@host`, `?password=***`."""
    for place in _PLACES:
        text = place.sub(r"\g<kept>***", text)
    return text
