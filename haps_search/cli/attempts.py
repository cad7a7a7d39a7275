"""The jobs of a sweep on a cluster, as verbs look for them."""

from __future__ import annotations

import logging

import typer
from rich.console import Console

from haps_search.config.schema import suggest
from haps_search.engines.cluster.jobs import Cluster
from haps_search.errors import ConfigError, PoolError
from haps_search.sweep.submission import Job


def connect(address: str) -> Cluster:
    """The cluster behind a dashboard, Ray's own remarks kept off the terminal. Raises ConfigError, PoolError."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    return Cluster(address)


def attempts(cluster: Cluster, name: str) -> list[Job]:
    """The jobs of a sweep, by attempt. Raises ConfigError with the nearest name where there is none."""
    jobs = cluster.attempts(name)
    if not jobs:
        raise ConfigError(
            f"no job of a sweep {name} on {cluster.address}; {suggest(name, cluster.names(), 'there are')}"
        )
    return jobs


def last_attempt(cluster: Cluster, name: str) -> Job:
    return attempts(cluster, name)[-1]


def show_attempts(console: Console, cluster: Cluster, name: str | None) -> None:
    """A line for each attempt of a sweep and the last that it printed; or for each sweep its last attempt."""
    jobs = attempts(cluster, name) if name else [last_attempt(cluster, each) for each in cluster.names()]
    if not jobs:
        console.print(f"no sweeps on {cluster.address}; `haps submit FILE --address {cluster.address}` sends one")
    for job in jobs:
        why = job.message.splitlines()[0] if job.message and not job.goes_on else ""
        console.print(f"{job.id}  {job.state.lower()}  {why}".rstrip(), highlight=False, markup=False, soft_wrap=True)
    if name:
        console.print(tail(cluster.log(jobs[-1]), 1).strip(), highlight=False, markup=False, soft_wrap=True)


def check(job: Job) -> None:
    """Raises PoolError where a job ended otherwise than well, with what Ray says of it and the way out."""
    if job.state != "SUCCEEDED":
        why = job.message.splitlines()[0] if job.message else "no reason given"
        raise PoolError(f"{job.id} {job.state.lower()}: {why}; `haps submit` again goes on where it was left")


def show(text: str) -> None:
    typer.echo(text, nl=False)


def tail(text: str, lines: int) -> str:
    """The last lines of a text."""
    return "".join(text.splitlines(keepends=True)[-lines:])


def before_tail(text: str, lines: int) -> int:
    """How many characters stand before the last lines."""
    return len(text) - len(tail(text, lines))
