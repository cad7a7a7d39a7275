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
    from haps_search.config.load import load_study

    study = load_study(file, settings(set_, run__warmup__epochs=epochs))

    from haps_search.cli.display import Terminal, columns
    from haps_search.verbs import warmup as verb

    with Terminal() as terminal:
        found = verb.warmup(study, table, name, runs, terminal)
    terminal.say(
        f"\nreward on {found.rows[0].reward.count} held-out questions, checkpoint of step {found.step}, seed "
        f"{found.seed}, 95 % intervals"
    )
    shown = columns(("", "reward", "likeliest minus this"))
    for row in found.rows:
        shown.add_row(row.label, str(row.reward), "" if row.gain is None else str(row.gain))
    terminal.show(shown)
    terminal.say(f"\ncheckpoint  {found.folder / 'checkpoints'}")
    terminal.say(f"next        haps train FILE --set run.warm_start={found.name}    (or sweep)")
