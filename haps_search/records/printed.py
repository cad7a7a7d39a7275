"""What a process prints, kept in a file: it is there when the process is not."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OUTPUT = "output.log"
"""Where a trial's attempt prints, in its folder."""
LAST_LINES, LONGEST = 12, 300
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def printing_to(file: Path) -> Iterator[None]:
    """While open, what this process prints, logs and says when it crashes goes to the end of `file`, and nowhere else.

    It is the operating system's output that is led there, so that libraries written in C have their say too.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    before = [os.dup(number) for number in (1, 2)]
    with file.open("ab", buffering=0) as opened:
        _flush()
        for number in (1, 2):
            os.dup2(opened.fileno(), number)
        watched = faulthandler.is_enabled()
        faulthandler.enable(opened)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            _flush()
            logging.getLogger().removeHandler(handler)
            faulthandler.disable()
            for number, former in zip((1, 2), before, strict=True):
                os.dup2(former, number)
                os.close(former)
            if watched:
                faulthandler.enable()


def last_lines(folder: Path) -> tuple[str, ...]:
    """What an attempt's process printed last."""
    try:
        with (folder / OUTPUT).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LAST_LINES * LONGEST, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    lines = [line.rstrip()[:LONGEST] for line in text.splitlines() if line.strip()]
    return tuple(lines[-LAST_LINES:])


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
