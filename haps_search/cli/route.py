"""haps route RUN: which assignment the router chooses for each question of a file; nobody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import CostWeight, OnProfile, RunPath, Runs


def route(
    run: RunPath,
    questions: Annotated[
        Path,
        typer.Option(help="JSONL, JSON, CSV or Parquet with a `question`, `id`, `context`, `task`."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A JSONL file for the decisions.")],
    cost_weight: CostWeight = None,
    profile: OnProfile = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a line per question: its assignment, and each candidate's probability. No candidate is asked."""
    from haps_search.tasks.question_lines import read_questions
    from haps_search.verbs.loaded_run import load_run

    asked = read_questions(questions)
    with load_run(run, runs, profile) as loaded:
        found = loaded.route(asked, cost_weight)
    found.write(out)
    for chosen, share in found.shares.items():
        typer.echo(f"{share:6.1%}  {chosen}")
    typer.echo(f"{len(asked)} questions in {out}")
