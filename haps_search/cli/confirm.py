"""haps confirm NAME: the best settings again, on seeds that the search has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Runs


def confirm(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    top: Annotated[int, typer.Option(min=1, help="How many settings.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each.")] = 3,
    runs: Runs = Path("runs"),
) -> None:
    """Run the best settings on fresh seeds: the best of many trials looks better than it is."""
    from haps_search.cli.find import sweep_journal
    from haps_search.sweep.inputs import all_at_hand
    from haps_search.sweep.ranking import best_first
    from haps_search.sweep.settings import confirmations

    journal = sweep_journal(runs, name)
    study = all_at_hand(journal.study(), journal.folder)
    best = best_first(study, journal.trials())
    settings = confirmations(study, best, top, seeds)

    from haps_search.cli.drive import run_settings
    from haps_search.evaluation.intervals import seed_interval

    trials = run_settings(study, journal.folder, settings)
    metric = study.sweep.objectives[0].metric
    typer.echo(f"{metric}, at most {study.experiment.run.validation.questions} validation questions a run")
    for record in best[:top]:
        again = [t.metrics[metric] for t in trials if t.label == f"trial {record.number}" and metric in t.metrics]
        searched = f"trial {record.number:03d}: searched {record.metrics[metric]:.3f}"
        if not again:
            typer.echo(f"{searched}, no confirming run has a result; `haps status {name}` has the reasons")
            continue
        listed = " ".join(f"{v:.3f}" for v in again)
        typer.echo(f"{searched}, confirmed {seed_interval(again)} over {len(again)} seeds: {listed}")
