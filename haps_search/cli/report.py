"""haps report NAME: one page of a sweep or a run, to read and to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Runs


def report(
    name: Annotated[str, typer.Argument(help="A sweep or a single run, also while it runs; or NAME/NUMBER.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: report/ in the sweep's own.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write index.html, which needs no network, and the data of every figure as CSV beside it."""
    from haps_search.verbs.find import folder_of

    if "/" not in name:
        folder_of(runs, name)  # an error in the name comes before matplotlib is loaded

    from haps_search.verbs import report as verb

    found = verb.report(name, out, runs)
    for line in found.missing:
        typer.echo(f"not shown  {line}")
    typer.echo(f"wrote {found.file} and {found.tables} CSV files beside it")
