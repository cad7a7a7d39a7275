"""haps ask RUN "question": what the router decides, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import CostWeight, OnProfile, RunPath, Runs


def ask(
    run: RunPath,
    question: Annotated[str, typer.Argument(help="The question's text.")],
    context: Annotated[str, typer.Option(help="Its context, for tasks that have one.")] = "",
    task: Annotated[str, typer.Option(help="The name of its task, for routers of a table that read it.")] = "",
    cost_weight: CostWeight = None,
    profile: OnProfile = None,
    runs: Runs = Path("runs"),
) -> None:
    """Route one question: assignment with probabilities, adapter norms, and the answer beside the frozen one.

    A router of a table says whom to ask; the table's models answer nothing new.
    """
    from haps_search.types import Question
    from haps_search.verbs.loaded_run import load_run

    asked = Question("asked", question, "", context, {"task": task} if task else {})
    with load_run(run, runs, profile) as loaded:
        found = loaded.ask(asked, cost_weight)
    decision = found.decision
    for role, chosen, chances in zip(found.roles, decision.assignment, decision.probabilities, strict=True):
        shares = ", ".join(f"{name} {p:.3f}" for name, p in chances.items())
        typer.echo(f"{role}: {chosen} ({shares})")
    for adapter in found.adapters:
        typer.echo(f"adapter of {adapter.candidate}: {adapter.norm:.3f} of its weights' norm, {adapter.size} numbers")
    for label, texts in (("answer", found.adapted), ("frozen", found.frozen)):
        for each in texts:
            typer.echo(f"{label} ({each.role}, {each.candidate}): {each.text}")
