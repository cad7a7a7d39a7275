"""haps stop NAME: let a running sweep or run save and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Address, Runs


def stop(
    name: Annotated[str, typer.Argument(help="The sweep's or run's name.")],
    address: Address = None,
    runs: Runs = Path("runs"),
) -> None:
    """End its driver on this machine, or with --address its job: trials save the step they are at."""
    from haps_search.cli.display import Terminal

    terminal = Terminal()
    if address is not None:
        from haps_search.verbs.cluster_jobs import stop_job

        job = stop_job(address, name, terminal)
        terminal.say(f"{job.id} {job.state.lower()}; `haps submit` again goes on where it was left")
        return
    from haps_search.verbs import stop as verb

    verb.stop(name, runs, terminal)
    terminal.say(f"{name} is stopped; `haps resume {name}` goes on")
