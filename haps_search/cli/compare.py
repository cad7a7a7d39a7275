"""haps compare NAME: the arms of a sweep side by side on a whole split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.evaluate import MeasuredSplit
from haps_search.cli.options import Profile, Runs


def compare(
    name: Annotated[str, typer.Argument(help="The sweep's name; its study must have arms.")],
    split: Annotated[MeasuredSplit, typer.Option(help="The test split is read when it is asked for only.")],
    again: Annotated[bool, typer.Option("--again", help="read a test split that was read before.")] = False,
    profile: Profile = None,
    runs: Runs = Path("runs"),
) -> None:
    """Measure the best checkpoint of every arm and seed, and the frozen candidates, on the same questions. The test
    split of an outcome table is read once."""
    from haps_search.verbs.find import sweep_journal

    sweep_journal(runs, name)

    from haps_search.cli.display import Terminal
    from haps_search.cli.sweep_tables import show_arms
    from haps_search.verbs import compare as verb

    with Terminal() as terminal:
        show_arms(terminal, verb.compare(name, split.value, again, runs, terminal, profile))
