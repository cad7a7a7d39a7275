"""haps submit FILE: a sweep as a job of a Ray cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haps_search.cli.options import File, Set

if TYPE_CHECKING:
    from haps_search.config.engines import ClusterProfile
    from haps_search.config.sweep import Study


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
    import os

    from haps_search.cli.find import named_folder
    from haps_search.config.load import read_study
    from haps_search.sweep.packing import own_package
    from haps_search.sweep.submission import checked_runs, environment

    study = read_study(file, set_ or ())
    described = _profile(study, profile)
    where, kept = _address(address, described), checked_runs(runs)
    called = named_folder(Path("/"), name or study.name).name
    variables = environment(env or (), os.environ)

    from haps_search.cli.submitting import Submission, send

    with tempfile.TemporaryDirectory() as folder:
        modules = () if installed else (own_package(),)
        send(Submission(study, described, called, kept, Path(folder), modules, variables), where, follow)


def _profile(study: Study, given: str | None) -> ClusterProfile:
    from haps_search.config.engines import RayEngineConfig
    from haps_search.config.load import load_profile
    from haps_search.errors import ConfigError

    engine = study.experiment.engine
    if given is not None:
        return load_profile(given)
    if isinstance(engine, RayEngineConfig):
        return load_profile(engine.profile)
    raise ConfigError("experiment.engine: type local has no cluster to be sent to: give --profile")


def _address(given: str | None, profile: ClusterProfile) -> str:
    from haps_search.errors import ConfigError

    address = given or profile.dashboard
    if address is None:
        raise ConfigError(
            f"no cluster: give --address http://HOST:8265, or write `dashboard` into profile {profile.name}"
        )
    return address
