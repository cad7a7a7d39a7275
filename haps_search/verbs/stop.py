"""Let a running sweep or run save and leave."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from haps_search.errors import ConfigError, PoolError
from haps_search.sweep.layout import lock_file
from haps_search.sweep.leaving import ASKED
from haps_search.sweep.lock import holder
from haps_search.verbs.events import Report, Said, silent
from haps_search.verbs.find import folder_of

LONGEST_S = 600.0
"""A grace, and what a driver does after it."""


def stop(name: str, runs: str | Path = "runs", report: Report = silent) -> None:
    """Ask the process on this machine that is at a sweep or run to leave, and wait until it has.

    Raises:
        ConfigError: nobody is at it, or somebody on another machine. PoolError: it does not leave.
    """
    folder = folder_of(runs, name)
    lock = lock_file(folder)
    held = holder(lock)
    if held is None:
        raise ConfigError(f"no driver is at it; `haps resume {name}` would begin one", f"sweep {name}")
    if held.get("host") != socket.gethostname():
        raise ConfigError(
            f"is driven on {held.get('host')} by process {held.get('pid')}: stop it there", f"sweep {name}"
        )
    (folder / ASKED).touch()
    os.kill(int(held["pid"]), signal.SIGTERM)
    report(Said(f"process {held['pid']} was asked to leave; its trials save their step"))
    deadline = time.monotonic() + LONGEST_S
    while holder(lock) is not None:
        if time.monotonic() > deadline:
            raise PoolError(
                f"process {held['pid']} is still there; `kill -9 {held['pid']}` loses the steps since it saved"
            )
        time.sleep(0.5)
