"""haps sweep FILE: begin a sweep, or take up the one of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Concurrency, File, MaxHours, Runs, Set, TrackingUri, Trials, settings


def sweep(
    file: File,
    name: Annotated[str | None, typer.Option(help="The sweep's name; default: the study's.")] = None,
    trials: Trials = None,
    concurrency: Concurrency = None,
    max_hours: MaxHours = None,
    set_: Set = None,
    tracking_uri: TrackingUri = None,
    runs: Runs = Path("runs"),
    like: Annotated[
        str | None, typer.Option("--like", metavar="SWEEP", help="Begin with another sweep's results, where they fit.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")] = False,
) -> None:
    """Search a study's space. A sweep of that name and configuration is taken up where it was left."""
    from haps_search.config.load import load_study
    from haps_search.verbs.find import named_folder

    overrides = settings(
        set_, sweep__trials=trials, sweep__concurrency=concurrency, sweep__max_hours=max_hours,
        tracking__uri=tracking_uri,
    )  # fmt: skip
    study = load_study(file, overrides)
    named_folder(runs, name or study.name)
    if dry_run:
        from haps_search.verbs.validate import validate

        typer.echo(validate(study))
        return

    from haps_search.cli.display import Terminal
    from haps_search.cli.sweep_tables import show_sweep
    from haps_search.verbs import sweep as verb

    with Terminal() as terminal:
        show_sweep(terminal, verb.sweep(study, name, runs, terminal, like=like))
