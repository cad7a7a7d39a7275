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
    opponents: Annotated[bool, typer.Option("--opponents", help="Each opponent's best setting on them too.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Run the best settings on fresh seeds: the best of many trials looks better than it is."""
    from haps_search.verbs.find import sweep_journal

    sweep_journal(runs, name)

    from haps_search.cli.display import Terminal
    from haps_search.verbs import confirm as verb

    with Terminal() as terminal:
        found = verb.confirm(name, top, seeds, runs, terminal, opponents)
    terminal.say(f"{found.metric}, at most {found.questions} validation questions a run")
    for one in found.settings:
        searched = f"trial {one.number:03d}: searched {one.searched:.3f}"
        listed = " ".join(f"{value:.3f}" for value in one.values)
        if one.interval is None:
            terminal.say(f"{searched}, no confirming run has a result; `haps status {name}` has the reasons")
        elif len(one.values) == 1:
            terminal.say(f"{searched}, confirmed {listed} on 1 seed, which has no interval")
        else:
            terminal.say(f"{searched}, confirmed {one.interval} over {len(one.values)} seeds: {listed}")
