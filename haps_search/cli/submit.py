"""haps submit FILE: a sweep as a job of a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from haps_search.cli.options import File, Set


def submit(
    file: File,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard; default: the profile's."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A name in clusters/profiles/ or a path; default: the file's.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name; default: the study's.")] = None,
    follow: Annotated[bool, typer.Option(help="Show the job's lines until it ends.")] = True,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A variable to take along; who holds the cluster's token can read it."),
    ] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="Use the cluster's haps_search instead of sending this one.")
    ] = False,
    set_: Set = None,
    runs: Annotated[
        str | None,
        typer.Option(envvar="HAPS_RUNS", metavar="FOLDER|URI", help="Where sweeps are kept, as every node sees it."),
    ] = None,
) -> None:
    """Send a sweep to a cluster. The same again attaches to it, resumes it, or says that it is done."""
    from haps_search.config.load import read_study

    study = read_study(file, set_ or ())

    from haps_search.cli.display import Terminal
    from haps_search.verbs import submit as verb

    with Terminal() as terminal:
        verb.submit(
            study, address, profile=profile, name=name, runs=runs, env=env or (), installed=installed, follow=follow,
            report=terminal,
        )  # fmt: skip
