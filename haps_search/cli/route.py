"""haps route RUN: which assignment the router chooses for each question of a file; nobody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import CostWeight, RunPath, Runs


def route(
    run: RunPath,
    questions: Annotated[
        Path, typer.Option(help="JSONL with a `question`, and `id`, `context` and `task` if there are.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A JSONL file for the decisions.")],
    cost_weight: CostWeight = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a line per question: its assignment, and each candidate's probability. No candidate is asked."""
    from haps_search.cli.find import find_run
    from haps_search.cli.questions import read_questions

    found = find_run(runs, run)
    asked = read_questions(questions)

    import asyncio
    import json
    from collections import Counter

    from haps_search.engines.local import load_run
    from haps_search.records.sealed import replace_text
    from haps_search.search.deciding import decide

    loaded = load_run(found.folder, found.experiment)
    worded = [loaded.worded(question) for question in asked]
    decisions = asyncio.run(decide(loaded.engine, loaded.task, worded, found.experiment, cost_weight))
    lines = [
        {"id": q.id, "question": q.text, "assignment": d.assignment, "probabilities": d.probabilities}
        for q, d in zip(asked, decisions, strict=True)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, "".join(json.dumps(line) + "\n" for line in lines))
    shares = Counter(" + ".join(d.assignment) for d in decisions)
    for chosen, count in shares.most_common():
        typer.echo(f"{count / len(asked):6.1%}  {chosen}")
    typer.echo(f"{len(asked)} questions in {out}")
