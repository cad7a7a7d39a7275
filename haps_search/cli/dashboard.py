"""haps dashboard NAME: Optuna's dashboard on a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Runs


def dashboard(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine only; 0 takes any.")] = 8080,
    runs: Runs = Path("runs"),
) -> None:
    """Serve the sweep to a browser on this machine, also while it runs. Ctrl-C ends it; the sweep goes on."""
    from haps_search.verbs.dashboard import Dashboard
    from haps_search.verbs.find import sweep_journal

    opened = Dashboard(sweep_journal(runs, name), port)
    typer.echo(f"storage    {opened.mirror.file}")
    typer.echo(f"dashboard  {opened.url}    (Ctrl-C ends it)")
    opened.serve()
