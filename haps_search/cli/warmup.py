"""haps warmup FILE --table TABLE: the high level learns from an outcome table before anything is played."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import File, Runs, Set, settings


def warmup(
    file: File,
    table: Annotated[Path, typer.Option(help="An outcome table, as `haps collect` writes it.")],
    name: Annotated[
        str | None, typer.Option("--name", "-o", help="The warm-up's name; default: the study's, with -warmup.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the table; sets run.warmup.epochs.")] = None,
    set_: Set = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train the high-level router alone on a table. `run.warm_start: NAME` then starts a run or a sweep from it."""
    from haps_search.cli.find import named_folder
    from haps_search.config.load import load_study

    study = load_study(file, settings(set_, run__warmup__epochs=epochs))

    from haps_search.cli.warming import warm_up_on

    warm_up_on(study, table.absolute(), named_folder(runs, name or f"{study.name}-warmup"))
