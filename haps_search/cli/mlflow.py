"""haps mlflow NAME: MLflow's pages on a sweep."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Runs


def mlflow(
    name: Annotated[str | None, typer.Argument(help="The sweep's name.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine only.")] = 5000,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring the runs folder's store up to date, a copy of it is kept.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Serve MLflow on a sweep's runs and the comparison of its trials; or bring an older MLflow's store up to date."""
    from haps_search.errors import ConfigError

    if upgrade:
        from haps_search.records.mlflow_upgrade import upgrade as migrate

        done = migrate(runs.resolve() / "mlflow.db")
        kept = f"; as it was: {done.kept}" if done.kept else ", nothing to do"
        typer.echo(f"the store has MLflow's tables {done.now}{kept}")
    if name is None:
        if not upgrade:
            raise ConfigError("say which sweep, or --upgrade; `haps status` lists sweeps")
        return
    from haps_search.verbs.find import sweep_journal
    from haps_search.verbs.mlflow import Server, pages, served_at, store_uri

    journal = sweep_journal(runs, name)
    uri = store_uri(journal, journal.study())
    base = served_at(uri)
    found = pages(journal, base or f"http://127.0.0.1:{port}")
    for asked in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, or the server would stay
        signal.signal(asked, signal.default_int_handler)
    server = None if base else Server(uri, runs, port)
    typer.echo(f"runs       {found.runs}")
    typer.echo(f"compare    {found.compare or 'once two trials have begun'}")
    if server is not None:
        typer.echo("(Ctrl-C ends the server)")
        server.serve()
