"""haps stop NAME: let a running sweep save and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Address, Runs


def stop(
    name: Annotated[str, typer.Argument(help="The sweep's name.")], address: Address = None, runs: Runs = Path("runs")
) -> None:
    """End a sweep's driver on this machine, or with --address its job: trials save the step they are at."""
    if address is None:
        _stop_here(name, runs)
        return
    from haps_search.cli.attempts import connect, last_attempt
    from haps_search.errors import PoolError
    from haps_search.sweep.submission import STOP_WAIT_S

    cluster = connect(address)
    job = last_attempt(cluster, name)
    if not job.goes_on:
        typer.echo(f"{job.id} had {job.state.lower()} already")
        return
    cluster.stop(job)
    typer.echo(f"{job.id} was asked to leave; its trials save their step (up to {STOP_WAIT_S} s)")
    ended = cluster.wait(job, STOP_WAIT_S + 30)
    if ended.goes_on:
        raise PoolError(f"{job.id} is still {ended.state.lower()}; `haps logs {name} --address {address}` may say why")
    typer.echo(f"{job.id} {ended.state.lower()}; `haps submit` again goes on where it was left")


def _stop_here(name: str, runs: Path) -> None:
    import os
    import signal
    import socket
    import time

    from haps_search.cli.find import sweep_journal
    from haps_search.errors import ConfigError, PoolError
    from haps_search.sweep.layout import lock_file
    from haps_search.sweep.leaving import GRACE_S
    from haps_search.sweep.lock import holder

    lock = lock_file(sweep_journal(runs, name).folder)
    held = holder(lock)
    if held is None:
        raise ConfigError(f"no driver is at it; `haps resume {name}` would begin one", f"sweep {name}")
    if held.get("host") != socket.gethostname():
        raise ConfigError(
            f"is driven on {held.get('host')} by process {held.get('pid')}: stop it there", f"sweep {name}"
        )
    os.kill(int(held["pid"]), signal.SIGTERM)
    typer.echo(f"process {held['pid']} was asked to leave; its trials save their step")
    deadline = time.monotonic() + GRACE_S + 60
    while holder(lock) is not None:
        if time.monotonic() > deadline:
            raise PoolError(
                f"process {held['pid']} is still there; `kill -9 {held['pid']}` loses the steps since it saved"
            )
        time.sleep(0.5)
    typer.echo(f"{name} is stopped; `haps resume {name}` goes on")
