"""haps logs NAME: what a sweep's driver printed or logged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Address, Runs


def logs(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends; needs --address.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show the driver's log of a sweep in a runs folder, or with --address what its job on a cluster prints."""
    from haps_search.errors import ConfigError

    if address is None:
        if follow:
            raise ConfigError("--follow needs --address; a sweep of this machine shows its lines where it was begun")
        from haps_search.cli.find import sweep_journal

        file = sweep_journal(runs, name).folder / "logs" / "driver.log"
        typer.echo(file.read_text() if file.exists() else f"{file}: nothing logged yet")
        return

    from haps_search.cli.attempts import check, connect, last_attempt, show

    cluster = connect(address)
    job = last_attempt(cluster, name)
    if follow:
        check(cluster.follow(job, show))
    else:
        show(cluster.log(job))
