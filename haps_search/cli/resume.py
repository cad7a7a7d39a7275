"""haps resume NAME: go on with a sweep that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Concurrency, MaxHours, Runs, Trials


def resume(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    trials: Trials = None,
    concurrency: Concurrency = None,
    max_hours: MaxHours = None,
    runs: Runs = Path("runs"),
) -> None:
    """Go on with a sweep: unfinished trials from their last checkpoint, then those not yet begun."""
    from haps_search.cli.find import sweep_journal
    from haps_search.config.load import dump, parse_study
    from haps_search.sweep.inputs import all_at_hand

    journal = sweep_journal(runs, name)
    values = dump(journal.study())
    for key, value in (("trials", trials), ("concurrency", concurrency), ("max_hours", max_hours)):
        if value is not None:
            values["sweep"][key] = value
    study = all_at_hand(parse_study(values, f"sweep {name}"), journal.folder)

    from haps_search.cli.drive import drive

    drive(study, journal.folder, resume=True)
