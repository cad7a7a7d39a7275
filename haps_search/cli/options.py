"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(help="A study: a YAML file, or a name in search_spaces/.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the file.")]


def _runs(given: str) -> Path:
    from haps_search.verbs.find import runs_folder

    return runs_folder(given)


Runs = Annotated[
    Path,
    typer.Option("--runs", envvar="HAPS_RUNS", parser=_runs, metavar="FOLDER|URI", help="Where sweeps are kept."),
]
Trials = Annotated[int | None, typer.Option(min=1, help="Number of search trials.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Trials at a time.")]
MaxHours = Annotated[float | None, typer.Option(min=0.0, help="Stop after so many hours; resume goes on.")]
TrackingUri = Annotated[str | None, typer.Option(help="An MLflow server; default: a file under the runs folder.")]
Profile = Annotated[
    str | None, typer.Option(help="A name in clusters/profiles/ or a path; default: the file's or the sweep's.")
]
OnProfile = Annotated[
    str | None,
    typer.Option(
        "--profile", help="Load the candidates on the cluster of this profile; default: all of them in this process."
    ),
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="URL", help="A cluster's dashboard, as in http://127.0.0.1:8265.")
]
CostWeight = Annotated[
    float | None,
    typer.Option(min=0.0, help="What cost weighs, for a router of a table with costs; as learning.cost_weight."),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Where the router's choice is less probable, the fallback answers instead."),
]
Fallback = Annotated[str | None, typer.Option(metavar="NAME", help="The candidate that does.")]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, NAME/NUMBER, or NAME for a sweep's best trial.")
]


def settings(chosen: list[str] | None, **values: object) -> list[str]:
    """--set texts from the options that were given; double underscores stand for dots."""
    given = [f"{path.replace('__', '.')}={value}" for path, value in values.items() if value is not None]
    return [*(chosen or []), *given]
