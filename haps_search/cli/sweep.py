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
    from haps_search.cli.find import named_folder
    from haps_search.config.load import load_study

    overrides = settings(
        set_, sweep__trials=trials, sweep__concurrency=concurrency, sweep__max_hours=max_hours,
        tracking__uri=tracking_uri,
    )  # fmt: skip
    study = load_study(file, overrides)
    folder = named_folder(runs, name or study.name)
    if dry_run:
        from haps_search.cli.validate import validate

        validate(file, overrides)
        return
    from haps_search.cli.find import sweep_journal
    from haps_search.sweep.inputs import kept
    from haps_search.sweep.prior import prior_of

    study, prior = kept(study, folder), None
    if like is not None:
        other = sweep_journal(runs, like)
        prior = prior_of(like, other.study(), other.trials(), study)
        typer.echo(f"begins with {len(prior.known)} results of {like}")
        for reason, count in prior.left_out.items():
            typer.echo(f"  {count} left out: {reason}")

    from haps_search.cli.drive import drive

    drive(study, folder, resume=False, prior=prior)
