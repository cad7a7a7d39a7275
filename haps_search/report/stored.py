"""JSON files that measuring left in a run's folder, read with the place of whatever is wrong in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haps_search.errors import DataError
from haps_search.report.shape import Cell


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and where it stands; reading a field that is not as needed raises DataError."""

    place: str
    content: Mapping[str, Any]

    def objects(self, name: str) -> list[Fields]:
        """A list of objects, each with its own place."""
        found = self.content.get(name)
        if not isinstance(found, list):
            raise self._wrong(name, "a list of objects", found)
        return [_fields(f"{self.place}, {name}[{index}]", each) for index, each in enumerate(found)]

    def text(self, name: str) -> str:
        found = self.content.get(name)
        if not isinstance(found, str):
            raise self._wrong(name, "a text", found)
        return found

    def number(self, name: str) -> float:
        found = self.maybe(name)
        if found is None:
            raise self._wrong(name, "a finite number", self.content.get(name))
        return found

    def maybe(self, name: str) -> float | None:
        """A number, or None where it is absent, null or not finite."""
        found = self.content.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._wrong(name, "a number or null", found)
        return float(found) if math.isfinite(found) else None

    def cell(self, name: str) -> Cell:
        """A text, a whole number, a number, or None where it is absent, null or not finite."""
        found = self.content.get(name)
        if isinstance(found, str) or (isinstance(found, int) and not isinstance(found, bool)):
            return found
        return self.maybe(name)

    def object(self, name: str) -> Fields:
        return _fields(f"{self.place}, {name}", self.content.get(name))

    def has(self, name: str) -> bool:
        return self.content.get(name) is not None

    def _wrong(self, name: str, needed: str, got: Any) -> DataError:
        shown = "nothing" if got is None else json.dumps(got)[:60]
        return DataError(f"{self.place}: field {name}: needs {needed}, got {shown}; measure again or remove the file")


def read_stored(file: Path) -> Fields | None:
    """The object of a JSON file, None where there is no file. Raises DataError where it is damaged."""
    if not file.exists():
        return None
    try:
        return _fields(str(file), json.loads(file.read_bytes()))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); measure again or remove the file") from error


def _fields(place: str, content: Any) -> Fields:
    if not isinstance(content, dict):
        raise DataError(f"{place}: needs a JSON object, got {type(content).__name__}; measure again or remove the file")
    return Fields(place, content)
