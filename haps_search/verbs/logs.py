"""Where a driver's log lines go, and how they are read again."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from haps_search.errors import ConfigError
from haps_search.verbs.find import folder_of

RAY_LOGGERS = ("ray", "ray.train", "ray.tune", "ray.data", "ray._private", "ray.air")
LOOK_S = 0.5


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """While open, all log records and warnings of this process go to `file`, and nowhere else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Ray gives its loggers handlers of their own, which would write to the terminal.
    loggers = [logging.getLogger(), *map(logging.getLogger, RAY_LOGGERS)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.handlers[:] = [handler]
        each.propagate = each is loggers[0]
    loggers[0].setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        for each, handlers, level, propagate in before:
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(level)
        handler.close()


def log_file(name: str, runs: str | Path = "runs") -> Path:
    """The driver's log of a sweep or run. Raises ConfigError where there is no such sweep, run or log."""
    file = folder_of(runs, name) / "logs" / "driver.log"
    if not file.exists():
        raise ConfigError(f"{file}: nothing logged yet; a run on the local engine logs nothing")
    return file


def follow(file: Path, goes_on: Callable[[], bool]) -> Iterator[str]:
    """The text of a file, and what is added to it as long as `goes_on` says so."""
    with file.open(errors="replace") as opened:
        while True:
            living = goes_on()  # asked before the read, so that the last words are not missed
            text = opened.read()
            if text:
                yield text
            elif not living:
                return
            else:
                time.sleep(LOOK_S)
