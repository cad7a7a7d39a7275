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
    from haps_search.cli.find import named_folder
    from haps_search.config.engines import LocalEngineConfig
    from haps_search.config.load import load_study

    study = load_study(file, set_ or ())
    folder = named_folder(runs, name or f"{study.name}-train")

    from haps_search.cli.single import train_local, train_on_ray
    from haps_search.sweep.hold import Hold

    with Hold(folder):
        if isinstance(study.experiment.engine, LocalEngineConfig):
            train_local(study, folder)
        else:
            train_on_ray(study, folder)
