"""Fields of a user's JSON row, and what to say of one that cannot be used."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

NEEDS_PARAGRAPHS = "a list of [title, [sentences]]"


class BadRow(Exception):
    """One row's problem, without file and line."""


def field(row: Mapping[str, Any], name: str, way_out: str) -> Any:
    """The value under a name; `way_out` says what a user can do where it is missing."""
    if name not in row:
        raise BadRow(missing(row, name, way_out))
    return row[name]


def missing(row: Mapping[str, Any], name: str, way_out: str) -> str:
    near = difflib.get_close_matches(name, list(row), n=1)
    has = f"did you mean `{near[0]}`" if near else f"the row has {', '.join(list(row)[:8]) or 'no fields'}"
    return f"`{name}`: got no such field ({has}), {way_out}"


def text(row: Mapping[str, Any], name: str, way_out: str) -> str:
    """A text without its margins; an empty one is refused."""
    value = field(row, name, way_out)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"`{name}`: got {got(value)}, needs text that is not empty")
    return value.strip()


def identity(row: Mapping[str, Any], name: str, way_out: str) -> str:
    """A row's id: text, or a whole number as text."""
    value = field(row, name, way_out)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"`{name}`: got {got(value)}, needs text or a whole number")
    return str(value)


def paragraphs(value: Any, name: str, needs: str = NEEDS_PARAGRAPHS) -> list[tuple[str, str]]:
    """Titles and texts of a context as HotpotQA has it; sentences are joined by one space."""
    if not isinstance(value, list):
        raise BadRow(f"`{name}`: got {got(value)}, needs {needs}")
    found = []
    for place, paragraph in enumerate(value):
        match paragraph:
            case [str(title), [*sentences]] if all(isinstance(sentence, str) for sentence in sentences):
                found.append((title.strip(), " ".join(s.strip() for s in sentences if s.strip())))
            case _:
                raise BadRow(f"`{name}[{place}]`: got {got(paragraph)}, needs [title, [sentences]]")
    return found


def got(value: Any) -> str:
    """A value as the user wrote it, cut where long."""
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "..."
