"""haps ask RUN "question": what the router decides, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import CostWeight, RunPath, Runs


def ask(
    run: RunPath,
    question: Annotated[str, typer.Argument(help="The question's text.")],
    context: Annotated[str, typer.Option(help="Its context, for tasks that have one.")] = "",
    task: Annotated[str, typer.Option(help="The name of its task, for routers of a table that read it.")] = "",
    cost_weight: CostWeight = None,
    runs: Runs = Path("runs"),
) -> None:
    """Route one question: assignment with probabilities, adapter norms, and the answer beside the frozen one.

    A router of a table says whom to ask; the table's models answer nothing new.
    """
    from haps_search.cli.find import find_run

    found = find_run(runs, run)

    import asyncio

    from haps_search.engines.local import load_run
    from haps_search.episodes.play import Play, play
    from haps_search.search.deciding import decide
    from haps_search.search.metrics import adapter_norm
    from haps_search.types import Question

    loaded = load_run(found.folder, found.experiment)
    asked = [loaded.worded(Question("asked", question, "", context, {"task": task} if task else {}))]
    (decision,) = asyncio.run(decide(loaded.engine, loaded.task, asked, found.experiment, cost_weight))
    for role, chosen, chances in zip(loaded.task.roles, decision.assignment, decision.probabilities, strict=True):
        shares = ", ".join(f"{name} {p:.3f}" for name, p in chances.items())
        typer.echo(f"{role.name}: {chosen} ({shares})")
    if found.experiment.task.type == "replay":
        return
    routes = asyncio.run(loaded.engine.route(asked, 0, 0))
    for (_, name), adapter in routes.adapters.items():
        typer.echo(
            f"adapter of {name}: {adapter_norm([adapter]):.3f} of its weights' norm, {adapter.layout.size} numbers"
        )
    how = Play(found.experiment.run.sampling, seed=0, greedy=True)
    for label, adapters in (("answer", routes.adapters), ("frozen", {})):
        played = asyncio.run(play(loaded.engine.sample, loaded.task, asked, routes.assignments, adapters, how))
        for completion in played[0][0].completions:
            typer.echo(f"{label} ({completion.role}, {completion.candidate}): {completion.sampled.text}")
