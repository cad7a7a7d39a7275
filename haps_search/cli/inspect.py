"""haps inspect TABLE: is this pool worth routing?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    table: Annotated[Path | None, typer.Argument(help="Outcomes: JSON, JSONL, CSV, TSV or Parquet.")] = None,
    layout: Annotated[
        str, typer.Option(help="auto, llmrouter, routerbench, nested, long or collected; others by --config.")
    ] = "auto",
    config: Annotated[Path | None, typer.Option(help="A YAML that says which columns of which file hold what.")] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Only print the candidates of a replay study.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Keep all numbers in this file as well.")] = None,
) -> None:
    """Say what a table of outcomes holds, what is wrong with it, and what routing could gain on it."""
    from haps_search.verbs import inspect as verb

    if candidates:
        listed = [f"  - {{name: {name}, source: {{type: table}}}}" for name in verb.candidates(table, layout, config)]
        typer.echo("\n".join(["candidates:", *listed]))
        return
    found = verb.inspect(table, layout, config)
    if json_file is not None:
        found.write(json_file)

    from haps_search.cli.display import wide_console
    from haps_search.cli.pool_page import page

    console = wide_console()
    for part in page(found.config, found.loaded, found.report):
        console.print(part)
