"""haps resume NAME: go on with a sweep that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Concurrency, MaxHours, Profile, Runs, TrackingUri, Trials


def resume(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    trials: Trials = None,
    concurrency: Concurrency = None,
    max_hours: MaxHours = None,
    profile: Profile = None,
    tracking_uri: TrackingUri = None,
    runs: Runs = Path("runs"),
) -> None:
    """Go on with a sweep: unfinished trials from their last checkpoint, then those not yet begun."""
    from haps_search.verbs.find import sweep_journal

    sweep_journal(runs, name)  # an error in the name comes before the seconds that Ray and torch take to load

    from haps_search.cli.display import Terminal
    from haps_search.cli.sweep_tables import show_sweep
    from haps_search.verbs import sweep as verb

    with Terminal() as terminal:
        result = verb.resume(
            name, runs, trials=trials, concurrency=concurrency, max_hours=max_hours, profile=profile,
            uri=tracking_uri, report=terminal,
        )  # fmt: skip
        show_sweep(terminal, result)
