"""haps collect FILE -o TABLE: what every assignment earns on every question."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import File, Runs, Set


class Adapters(StrEnum):
    """Whose adapters play."""

    none = "none"
    cross_fit = "cross-fit"


class CollectedSplit(StrEnum):
    """The splits that a router may learn from."""

    train = "train"
    validation = "validation"


def collect(
    file: File,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="TABLE.parquet", help="The table to write.")],
    samples: Annotated[
        int, typer.Option(min=1, help="Episodes per cell: 1 is greedy, more are sampled as run.sampling says.")
    ] = 1,
    split: Annotated[CollectedSplit, typer.Option(help="Whose questions are played.")] = CollectedSplit.train,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Questions at a time; a kill costs at most these.")] = 16,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0.0, help="Pay endpoints so much at most, in all calls, in the unit of their prices."),
    ] = None,
    adapters: Annotated[
        Adapters,
        typer.Option(help="cross-fit: with the adapters of two runs, each on the half that it has not learnt."),
    ] = Adapters.none,
    set_: Set = None,
    runs: Runs = Path("runs"),
) -> None:
    """Play every assignment on every question and write an outcome table. The same command goes on after a kill."""
    from haps_search.config.load import load_study

    study = load_study(file, set_ or ())

    from haps_search.cli.display import Terminal
    from haps_search.verbs import collect as verb

    with Terminal() as terminal:
        found = verb.collect(
            study, out, split.value, samples, limit, chunk, terminal, max_cost, adapters is Adapters.cross_fit, runs
        )
    said = f"{found.episodes} episodes in {found.table}" if found.played else f"{found.table} is there already"
    terminal.say(said)
    if found.paid or found.refusals:
        terminal.say(f"endpoints were paid {found.paid:.6g}, and refused {found.refusals} requests")
    terminal.say(f"next  haps warmup FILE --table {found.table}")
