"""haps export RUN: adapters as PEFT folders, for others to serve, or merged into the weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import OnProfile, RunPath, Runs


class As(StrEnum):
    """What is written of adapters that all questions share."""

    peft = "peft"
    merged = "merged"
    vllm = "vllm"


def export(
    run: RunPath,
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for the adapters.")],
    questions: Annotated[
        Path | None,
        typer.Option(help="Rows with a `question` (JSONL, JSON, CSV, Parquet): the adapters of each."),
    ] = None,
    as_: Annotated[
        As, typer.Option("--as", help="Static adapters and banks: PEFT folders, merged weights, or for vLLM.")
    ] = As.peft,
    profile: OnProfile = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write adapters: of questions to OUT/QUESTION/CANDIDATE/ and OUT/routes.jsonl, or what they share to OUT/NAME/."""
    from haps_search.tasks.question_lines import read_questions
    from haps_search.verbs.export_static import export_static
    from haps_search.verbs.loaded_run import load_run

    if questions is None:
        shared = export_static(load_run(run, runs), out, as_.value)
        typer.echo(f"{len(shared.folders)} folders in {shared.folder}")
        for command in shared.commands:
            typer.echo(command)
        return
    asked = read_questions(questions)
    with load_run(run, runs, profile) as loaded:
        found = loaded.export(asked, out)
    typer.echo(f"{found.adapters} adapters and routes.jsonl in {found.folder}")
