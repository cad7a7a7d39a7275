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
    from haps_search.verbs.find import sweep_journal

    sweep_journal(runs, name)

    from haps_search.cli.display import Terminal
    from haps_search.cli.sweep_tables import show_sweep
    from haps_search.verbs import extend as verb

    with Terminal() as terminal:
        result = verb.extend(
            name, runs, trials=trials, steps=steps, concurrency=concurrency, max_hours=max_hours, report=terminal
        )
        show_sweep(terminal, result)
