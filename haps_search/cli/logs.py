"""Ray's and everyone else's log lines go to a file; the terminal belongs to the display."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

RAY_LOGGERS = ("ray", "ray.train", "ray.tune", "ray.data", "ray._private", "ray.air")


def log_to(file: Path) -> None:
    """Send all log records and warnings of this process to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Ray gives its loggers handlers of their own, which would write to the terminal.
    for name in RAY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
