"""haps extend NAME: more trials, or more steps for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Concurrency, MaxHours, Runs, Trials


def extend(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    trials: Trials = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run, in all; needs a constant rate.")] = None,
    concurrency: Concurrency = None,
    max_hours: MaxHours = None,
    runs: Runs = Path("runs"),
) -> None:
    """Search on with more trials in all, or more steps: runs that had ended go on from their checkpoints."""
    from haps_search.cli.find import sweep_journal
    from haps_search.cli.resume import resume
    from haps_search.verbs.extend import extend as write_down

    write_down(sweep_journal(runs, name), trials, steps)
    resume(name, None, concurrency, max_hours, runs)
