"""Rows of a JSON file, one object per line or one array, each with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haps_search.errors import ConfigError
from haps_search.types import Split

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_NOT_UTF8 = "got bytes that are not UTF-8 (at byte {}), save the file as UTF-8"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a row is no question. After a `final` one nothing of the file can be read."""

    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A value, or why it is none. `number` is its line, or its number in an array; `place` is for messages."""

    number: int
    place: str
    value: Any


def json_rows(path: Path, split: Split) -> Iterator[Row]:
    """The rows of a JSONL file, or of the array that the file holds; blank lines are skipped.

    An array is decoded row by row, with the whole text in memory.

    Raises:
        ConfigError: the file cannot be opened.
    """
    begun = False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(_BOM) if number == 1 else line
                if not begun and line.lstrip().startswith(b"["):
                    yield from _array(line + file.read(), number)
                    return
                if line.strip():
                    begun = True
                    yield Row(number, str(number), _value(line))
    except OSError as error:
        reason = f"task.{split}: cannot read `{path}` ({error.strerror})"
        raise ConfigError(f"{reason}: name a JSON or JSONL file") from error


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return Unreadable(_NOT_UTF8.format(error.start))
    except json.JSONDecodeError as error:
        return Unreadable(f"bad JSON ({error.msg} at character {error.pos + 1}), needs one object per line")


def _array(content: bytes, line: int) -> Iterator[Row]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield Row(1, str(line), Unreadable(_NOT_UTF8.format(error.start), final=True))
        return
    counted, number, at = 0, 0, _past_space(text, text.index("[") + 1)
    while not text.startswith("]", at):
        line, counted, number = line + text.count("\n", counted, at), at, number + 1
        value, at = _element(text, at)
        yield Row(number, f"{line} (row {number})", value)
        if at < 0:
            return
    if text[at + 1 :].strip():
        line += text.count("\n", counted, at)
        reason = "text goes on after the array's `]`, needs one array or one object per line"
        yield Row(number + 1, str(line), Unreadable(reason, final=True))


def _element(text: str, at: int) -> tuple[Any, int]:
    """A value of the array and where the next one starts; -1 where it cannot be told."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except json.JSONDecodeError as error:
        return _broken(f"{error.msg} at character {error.pos + 1} of the file"), -1
    after = _past_space(text, end)
    if text.startswith(",", after):
        return value, _past_space(text, after + 1)
    if text.startswith("]", after):
        return value, after
    return _broken(f"neither `,` nor `]` at character {after + 1} of the file"), -1


def _broken(what: str) -> Unreadable:
    return Unreadable(f"bad JSON ({what}), needs an array of objects", final=True)


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
