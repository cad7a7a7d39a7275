"""haps ask RUN "question": what the router decides, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import RunPath, Runs


def ask(
    run: RunPath,
    question: Annotated[str, typer.Argument(help="The question's text.")],
    context: Annotated[str, typer.Option(help="Its context, for tasks that have one.")] = "",
    runs: Runs = Path("runs"),
) -> None:
    """Route one question: assignment with probabilities, delta norms, and the answer beside the frozen one."""
    from haps_search.cli.find import find_run

    found = find_run(runs, run)

    import asyncio

    from haps_search.engines.loaded import load_run
    from haps_search.episodes.play import Play, play
    from haps_search.search.metrics import delta_norm
    from haps_search.types import Question

    loaded = load_run(found.folder, found.experiment)
    asked = [Question("asked", question, "", context)]
    routes = asyncio.run(loaded.engine.route(asked, 0, 0))
    names = [c.name for c in found.experiment.candidates]
    for role, marginal in zip(loaded.task.roles, routes.marginals[0], strict=True):
        shares = ", ".join(f"{name} {p:.3f}" for name, p in zip(names, marginal, strict=True))
        typer.echo(f"{role.name}: {shares}")
    for (_, name), delta in routes.deltas.items():
        typer.echo(f"delta of {name}: {delta_norm([delta]):.3f} of its weights' norm, {delta.layout.size} numbers")
    how = Play(found.experiment.run.sampling, seed=0, greedy=True)
    for label, deltas in (("answer", routes.deltas), ("frozen", {})):
        played = asyncio.run(play(loaded.engine.speak, loaded.task, asked, routes.assignments, deltas, how))
        for utterance in played[0][0].utterances:
            typer.echo(f"{label} ({utterance.role}, {utterance.candidate}): {utterance.response.text}")
