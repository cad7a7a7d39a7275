"""What `haps submit` does on the cluster, and what it says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from haps_search.cli.attempts import before_tail, check, connect, show, tail
from haps_search.config.engines import ClusterProfile
from haps_search.config.load import fingerprint
from haps_search.config.sweep import Study
from haps_search.engines.cluster.jobs import Cluster
from haps_search.sweep.packing import pack
from haps_search.sweep.submission import Attach, Begin, Done, Job, decide, entrypoint, metadata, place

TAIL = 12
"""Lines shown of what was printed before one looks."""


@dataclass(frozen=True)
class Submission:
    """A study to be sent under a name, and the empty folder to pack it in."""

    study: Study
    profile: ClusterProfile
    name: str
    runs: str
    folder: Path
    modules: Sequence[Path]
    environment: Mapping[str, str]


def send(what: Submission, address: str, follow: bool) -> None:
    """Begin, attach, or say that it is done. Raises ConfigError, PoolError."""
    sealed = fingerprint(pack(what.study, what.profile, what.folder))
    cluster = connect(address)
    decided = decide(what.name, cluster.attempts(what.name), what.runs, sealed)
    match decided:
        case Done(job):
            typer.echo(f"{job.id} has ended, all trials are done: `haps logs {what.name} --address {address}`")
            typer.echo(tail(cluster.log(job), TAIL), nl=False)
        case Attach(job, other):
            typer.echo(f"{job.id} runs on {address}; attaching to it")
            if other:
                typer.echo(
                    f"note: it runs under other settings than these; `haps stop {what.name}` first to change them"
                )
            _watch(cluster, what.name, job, follow, seen=before_tail(cluster.log(job), TAIL))
        case Begin():
            job = _begin(cluster, what, decided, sealed)
            _watch(cluster, what.name, job, follow)


def _begin(cluster: Cluster, what: Submission, begin: Begin, sealed: str) -> Job:
    said = metadata(what.name, what.runs, sealed)
    command = entrypoint(what.name, what.runs)
    job = cluster.submit(begin, command, what.folder, what.modules, what.environment, said)
    goes_on = "; it goes on where the last attempt was left" if begin.attempt > 1 else ""
    typer.echo(f"submitted {job.id} to {cluster.address}, sweep in {place(what.name, what.runs)}{goes_on}")
    return job


def _watch(cluster: Cluster, name: str, job: Job, follow: bool, seen: int = 0) -> None:
    """Raises PoolError where the job ended otherwise than well."""
    at = f"{name} --address {cluster.address}"
    if not follow:
        typer.echo(f"next        haps status {at}    haps logs {at} --follow    haps stop {at}")
        return
    try:
        ended = cluster.follow(job, show, seen)
    except KeyboardInterrupt:
        typer.echo(f"\n{job.id} goes on. `haps logs {at} --follow` attaches again, `haps stop {at}` ends it")
        raise
    check(ended)
