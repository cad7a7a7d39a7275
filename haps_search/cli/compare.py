"""haps compare NAME: the arms of a sweep, or its best trial, side by side on a whole split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.evaluate import MeasuredSplit
from haps_search.cli.options import Runs


def compare(
    name: Annotated[str, typer.Argument(help="The sweep's name; its study must have arms.")],
    split: Annotated[MeasuredSplit, typer.Option(help="The test split is read when it is asked for only.")],
    again: Annotated[bool, typer.Option("--again", help="Replay: read a test split that was read before.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Measure the best checkpoint of every arm and seed, and the frozen candidates, on the same questions. The test
    split of an outcome table is read once."""
    from haps_search.cli.find import sweep_journal
    from haps_search.errors import ConfigError
    from haps_search.sweep.inputs import all_at_hand

    journal = sweep_journal(runs, name)
    study = all_at_hand(journal.study(), journal.folder)
    if not study.arms:
        raise ConfigError(
            f"sweep {name} has no arms to compare; `haps evaluate {name} --split {split.value}` measures its best trial"
        )

    from haps_search.cli.arms import measure_arms

    measure_arms(study, journal.folder, split.value, again)
