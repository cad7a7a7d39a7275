"""haps train FILE: one run at the file's own values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import File, Runs, Set


def train(
    file: File,
    name: Annotated[str | None, typer.Option(help="The run's name; default: the study's, with -train.")] = None,
    set_: Set = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train one router, no search. A run of that name goes on from its last checkpoint."""
    from haps_search.config.load import load_study

    study = load_study(file, set_ or ())

    from haps_search.cli.display import Terminal
    from haps_search.verbs import train as verb

    with Terminal() as terminal:
        found = verb.train(study, name, runs, terminal)
    best = found.metrics.get("validation_reward", float("nan"))
    terminal.say(f"ended by {found.reason}; best validation {best:.3f} at step {found.best_step}")
