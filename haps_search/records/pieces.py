"""A file that only grows, in a store where nothing can be appended to: pieces of equal length, the last one shorter.

An append writes the pieces it touches, the last one first: until the first of them is replaced it is short, and readers
go no further than the first short piece. So an append is there in full or not at all, whatever was left beyond it.
"""

from __future__ import annotations

import os
from pathlib import Path

from haps_search.records.objects import Objects

PIECE = 65_536


def push_from(objects: Objects, name: str, file: Path, offset: int) -> None:
    """Put what the file has from a byte on; the store has what lies before. Raises PoolError."""
    first = offset // PIECE
    with file.open("rb") as opened:
        opened.seek(first * PIECE)
        data = opened.read()
    starts = range(0, len(data), PIECE)
    for start in reversed(starts):
        objects.put(_piece(name, first + start // PIECE), data[start : start + PIECE])


def pull_whole(objects: Objects, name: str, file: Path) -> bool:
    """Write the file anew from its pieces; whether there are any. Raises PoolError."""
    data, number = b"", 0
    while True:
        piece = objects.get(_piece(name, number))
        data += piece or b""
        if piece is None or len(piece) < PIECE:
            break
        number += 1
    if not data:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(file)
    return True


def _piece(name: str, number: int) -> str:
    return f"{name}/{number:06d}"
