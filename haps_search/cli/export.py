"""haps export RUN: the generated adapters as PEFT folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import OnProfile, RunPath, Runs


def export(
    run: RunPath,
    questions: Annotated[Path, typer.Option(help="JSONL with a `question`, and `id` and `context` if there are.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for the adapters.")],
    profile: OnProfile = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write OUT/QUESTION/CANDIDATE/, a PEFT adapter each, and OUT/routes.jsonl with the assignments."""
    from haps_search.tasks.question_lines import read_questions
    from haps_search.verbs.loaded_run import load_run

    asked = read_questions(questions)
    with load_run(run, runs, profile) as loaded:
        found = loaded.export(asked, out)
    typer.echo(f"{found.adapters} adapters and routes.jsonl in {found.folder}")
