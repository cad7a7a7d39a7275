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
    from haps_search.cli.find import find_run, named_folder, sweep_journal
    from haps_search.report.source import read_run, read_sweep
    from haps_search.sweep.hold import fetched, put_back

    single = "/" in name or (fetched(named_folder(runs, name)) / "experiment.json").exists()
    if single:
        found = find_run(runs, name)
        source = read_run(found.folder, found.experiment)
    else:
        source = read_sweep(sweep_journal(runs, name))

    from haps_search.report.build import build, write
    from haps_search.report.parameters import Importance, why_not

    importances: tuple[Importance, ...] = ()
    if source.study is not None and not why_not(source):
        from haps_search.sweep.suggestions import importances as computed

        importances = computed(source.study, source.trials)
    made = build(source, importances)
    file = write(made, out or source.folder / "report")
    put_back(source.folder)
    for line in made.missing:
        typer.echo(f"not shown  {line}")
    typer.echo(f"wrote {file} and {len(made.tables)} CSV files beside it")
