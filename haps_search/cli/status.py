"""haps status [NAME]: how far sweeps are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Address, Runs


def status(
    name: Annotated[str | None, typer.Argument(help="A sweep; default: a line for each.")] = None,
    address: Address = None,
    runs: Runs = Path("runs"),
) -> None:
    """Show the sweeps of a runs folder or the trials of one; with --address the jobs of a cluster."""

    from haps_search.cli.display import table, wide_console
    from haps_search.cli.find import sweep_journal
    from haps_search.sweep.progress import Progress, fraction_done, planned_trials, sweeps

    console = wide_console()
    if address is not None:
        from haps_search.cli.attempts import connect, show_attempts

        show_attempts(console, connect(address), name)
        return
    names = [name] if name else sweeps(runs)
    if not names:
        console.print(f"no sweeps under {runs}; `haps sweep FILE` begins one")
    for each in names:
        journal = sweep_journal(runs, each)
        study, ended = journal.study(), journal.ended()
        views = Progress(journal, study).trials()
        done = 1.0 if ended else fraction_done(views, study, planned_trials(study))
        state = f"ended: {ended.reason}" if ended else "not ended (running, or `haps resume` goes on)"
        console.print(f"{each}: {len(views)} trials begun, {done:.0%} of the steps done, {state}")
        if name:
            console.print(table(views))
