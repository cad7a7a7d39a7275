"""haps status [NAME]: how far sweeps and runs are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haps_search.cli.options import Address, Runs

if TYPE_CHECKING:
    from haps_search.cli.display import Terminal


def status(
    name: Annotated[str | None, typer.Argument(help="A sweep or run; default: a line for each.")] = None,
    address: Address = None,
    runs: Runs = Path("runs"),
) -> None:
    """Show the sweeps and runs of a folder or the trials of one; with --address the jobs of a cluster."""
    from haps_search.cli.display import Terminal, trials_table

    terminal = Terminal()
    if address is not None:
        _jobs(terminal, address, name)
        return
    from haps_search.verbs import status as verb

    found = verb.status(name, runs)
    if not found:
        terminal.say(f"no sweeps or runs under {runs}; `haps sweep FILE` begins one")
    for each in found:
        words = {"ended": "ended: ", "running": "running: ", "left": "not running: "}[each.state] + each.reason
        goes_on = "haps resume" if each.kind == "sweep" else "haps train"
        after = f"; `{goes_on} {each.name if each.kind == 'sweep' else 'FILE'}` goes on" if each.state == "left" else ""
        begun = f"{len(each.trials)} trials begun, " if each.kind == "sweep" else "a run, "
        terminal.say(f"{each.name}: {begun}{each.done:.0%} of the steps done, {words}{after}")
        if name:
            terminal.show(trials_table(each.trials))


def _jobs(terminal: Terminal, address: str, name: str | None) -> None:
    from haps_search.verbs.cluster_jobs import jobs_status

    found = jobs_status(address, name)
    if not found.jobs:
        at = found.address
        terminal.say(f"no sweeps on {at}; `haps submit FILE --address {at}` sends one")
    for job in found.jobs:
        why = job.message.splitlines()[0] if job.message and not job.goes_on else ""
        terminal.say(f"{job.id}  {job.state.lower()}  {why}".rstrip())
    if found.last_line:
        terminal.say(found.last_line)
