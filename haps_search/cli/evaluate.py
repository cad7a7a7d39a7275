"""haps evaluate RUN: a run's best checkpoint on a whole split."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Fallback, MinConfidence, OnProfile, RunPath, Runs


class MeasuredSplit(StrEnum):
    """The splits that a router was not trained on."""

    validation = "validation"
    test = "test"


def evaluate(
    run: RunPath,
    split: Annotated[
        MeasuredSplit, typer.Option(help="The test split is read by this command only.")
    ] = MeasuredSplit.validation,
    again: Annotated[bool, typer.Option("--again", help="Read a test split that was read before.")] = False,
    table: Annotated[
        Path | None, typer.Option(help="Replay: judge on another table with the same models, or on a YAML of one.")
    ] = None,
    logged: Annotated[
        Path | None,
        typer.Option(help="Replay: what the router would have earned on a log with one outcome per question."),
    ] = None,
    min_confidence: MinConfidence = None,
    fallback: Fallback = None,
    profile: OnProfile = None,
    runs: Runs = Path("runs"),
) -> None:
    """Measure every row of a sweep's table at once, on the same questions; of a single run or trial its best
    checkpoint, on the test split beside validation. A sweep or run on an outcome table is judged beside all references.
    The test split is read once."""
    from haps_search.verbs.find import find_run

    find_run(runs, run)

    from haps_search.cli.display import Terminal
    from haps_search.cli.replay_page import show_judged, show_log
    from haps_search.cli.sweep_tables import show_table
    from haps_search.search.gated import gate_of
    from haps_search.verbs import evaluate as verb
    from haps_search.verbs.evaluate import TableOnSplit
    from haps_search.verbs.judge import Judged
    from haps_search.verbs.logged import JudgedByLog

    with Terminal() as terminal:
        gate = gate_of(min_confidence, fallback)
        found = verb.evaluate(
            run, split.value, again, runs, terminal, table=table, logged=logged, profile=profile, gate=gate
        )
    if isinstance(found, JudgedByLog):
        show_log(terminal, found)
        return
    if isinstance(found, Judged):
        show_judged(terminal, found)
        return
    if isinstance(found, TableOnSplit):
        show_table(terminal, found)
        return
    terminal.say(f"{found.folder}, checkpoint of step {found.step}, seed {found.seed}")
    for label, interval in found.measured.items():
        terminal.say(f"  {label:<22} {interval}  ({interval.count} questions, 95 % interval)")
    for label, under in found.gated.items():
        terminal.say(f"  {label} below {min_confidence:g} to {fallback}: {under.share:.1%} escalated")
        terminal.say(f"    reward {under.reward}, {under.gain} more than without")
        terminal.say(f"    cost of a question {under.cost:.3g}, without {under.cost_without:.3g}")
