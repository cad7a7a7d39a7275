"""haps export RUN: the generated adapters as PEFT folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import RunPath, Runs


def export(
    run: RunPath,
    questions: Annotated[Path, typer.Option(help="JSONL with a `question`, and `id` and `context` if there are.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for the adapters.")],
    runs: Runs = Path("runs"),
) -> None:
    """Write OUT/QUESTION/CANDIDATE/, a PEFT adapter each, and OUT/routes.jsonl with the assignments."""
    from haps_search.cli.find import find_run
    from haps_search.cli.questions import read_questions

    found = find_run(runs, run)
    asked = read_questions(questions)

    import asyncio
    import json

    from haps_search.candidates.sources import model_name
    from haps_search.engines.local import load_run
    from haps_search.errors import ConfigError
    from haps_search.lora.peft import export_adapter

    loaded = load_run(found.folder, found.experiment)
    adapters = loaded.adapters(asked)
    if not adapters:
        raise ConfigError("routing.low_level: none: this run has no adapters; `haps route` writes its assignments")
    bases = {c.name: model_name(c.name, c.source) for c in found.experiment.candidates if c.source.type != "table"}
    revisions = {c.name: getattr(c.source, "revision", None) for c in found.experiment.candidates}
    routes = asyncio.run(loaded.engine.route(asked, 0, 0))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "routes.jsonl").open("w") as file:
        for index, question in enumerate(asked):
            chosen = list(routes.assignments[index][0])
            file.write(json.dumps({"id": question.id, "question": question.text, "assignment": chosen}) + "\n")
            for name, base in bases.items():
                export_adapter(adapters[index, name], out / question.id / name, base, revisions[name])
    typer.echo(f"{len(asked) * len(bases)} adapters and routes.jsonl in {out}")
