"""A JSON array decoded element by element, with one stretch of its text in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, NoReturn

CHUNK = 1 << 20
LARGEST = 1 << 26
"""An element longer than this is taken for a broken one: what follows a missing quote would be read to the end."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"[0-9.eE+-]*")


class ArrayBroken(Exception):
    """Why nothing more of an array can be read: on which line, and whether an element was begun there."""

    def __init__(self, reason: str, line: int, inside: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.line, self.inside = reason, line, inside


def elements(file: IO[bytes], begun: bytes = b"") -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of the array in `begun` (what was read already) and `file`.

    Raises:
        ArrayBroken: text that is no array, or no UTF-8.
    """
    text = _Text(file, begun)
    text.pass_over("[")
    while not text.follows("]"):
        yield text.value()
        if not text.follows("]"):
            text.pass_over(",", "neither `,` nor `]`")
    text.pass_over("]")
    if not text.ended():
        raise ArrayBroken("text goes on after the array's `]`, needs one array or one object per line", text.line)


class _Text:
    """Decoded text that grows at its end as more is needed, and is forgotten behind the place that was read."""

    def __init__(self, file: IO[bytes], begun: bytes) -> None:
        self._file, self._pending, self._decoder = file, begun, codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._bytes, self._before = "", 0, 0, 0
        self.line = 1

    def follows(self, character: str) -> bool:
        """Whether a character comes next, but for spaces."""
        self._skip()
        return self._text.startswith(character, self._at)

    def ended(self) -> bool:
        self._skip()
        return self._at == len(self._text)

    def pass_over(self, character: str, otherwise: str = "no array") -> None:
        """Go past a character. Raises ArrayBroken where it does not come next."""
        if not self.follows(character):
            self._break(otherwise, self._at)
        self._take(self._at + 1)

    def value(self) -> tuple[int, Any]:
        """The next value and the line that it begins on."""
        self._skip()
        self._forget()
        here = self.line
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) < LARGEST and self._more():
                    continue
                self._break(error.msg, error.pos)
            if _past(_NUMBER, self._text, end) == len(self._text) and self._more():
                continue  # a number may go on in what is not read yet
            self._take(end)
            return here, value

    def _take(self, until: int) -> None:
        self.line += self._text.count("\n", self._at, until)
        self._at = until

    def _break(self, what: str, place: int) -> NoReturn:
        place += self._before + 1
        raise ArrayBroken(
            f"bad JSON ({what} at character {place} of the file), needs an array of objects", self.line, inside=True
        )

    def _skip(self) -> None:
        while True:
            self._take(_past(_SPACE, self._text, self._at))
            if self._at < len(self._text) or not self._more():
                return

    def _forget(self) -> None:
        if self._at > CHUNK // 2:
            self._before += self._at
            self._text, self._at = self._text[self._at :], 0

    def _more(self) -> bool:
        """Read on, twice as far each time nothing could be made of what is there; False at the end of the file."""
        chunk = self._pending or self._file.read(max(CHUNK, len(self._text)))
        self._pending = b""
        kept = len(self._decoder.getstate()[0])
        try:
            self._text += self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            where = self._bytes - kept + error.start
            raise ArrayBroken(
                f"got bytes that are not UTF-8 (at byte {where}), save the file as UTF-8", self.line
            ) from error
        self._bytes += len(chunk)
        return bool(chunk)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
