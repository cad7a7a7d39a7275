"""A disk without room is the machine's failure: the run stops with what to do, and goes on when there is room."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from haps_search.errors import Kind, PoolError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def room_on(folder: Path) -> Iterator[None]:
    """Raises PoolError where the body found no room on the folder's disk; other errors pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _told(error)
        if number not in _NO_ROOM:
            raise
        free = shutil.disk_usage(folder).free
        raise PoolError(
            f"{folder}: cannot be written ({os.strerror(number)}; {free:,} bytes are free there): make room or raise "
            "the quota, then start it again; the last checkpoint is whole, and it goes on from there"
        ).of_kind(Kind.TRANSIENT) from error


def _told(error: SafetensorError) -> int | None:
    """Safetensors writes in Rust, and its errors keep the number in their text only."""
    return next((number for number in _NO_ROOM if f"os error {number})" in str(error)), None)
