"""haps logs NAME: what a sweep's driver printed or logged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer

from haps_search.cli.options import Address, Runs


def logs(
    name: Annotated[str, typer.Argument(help="The sweep's or run's name.")],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as long as it runs.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show the driver's log of a sweep or run, or with --address what its job on a cluster prints. A terminal pages
    it."""

    def show(text: str) -> None:
        typer.echo(text, nl=False)

    if address is not None:
        from haps_search.verbs.cluster_jobs import follow_job, job_log

        if follow:
            follow_job(address, name, show)
        else:
            click.echo_via_pager(job_log(address, name))
        return

    from haps_search.sweep.layout import lock_file
    from haps_search.sweep.lock import holder
    from haps_search.verbs import logs as verb

    file = verb.log_file(name, runs)
    if not follow:
        click.echo_via_pager(verb.follow(file, lambda: False))
        return
    lock = lock_file(file.parent.parent)
    for text in verb.follow(file, lambda: holder(lock) is not None):
        show(text)
