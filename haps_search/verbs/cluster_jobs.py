"""The jobs of a sweep on a cluster: what submit, status, logs and stop look at there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from haps_search.config.schema import suggest
from haps_search.engines.cluster.jobs import Cluster
from haps_search.errors import ConfigError, PoolError
from haps_search.sweep.submission import STOP_WAIT_S, Job
from haps_search.verbs.events import Report, Said, silent


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


@dataclass(frozen=True)
class JobsStatus:
    """Every attempt of one sweep, or the last one of each; and the last line that the newest printed."""

    address: str
    jobs: tuple[Job, ...]
    last_line: str


def jobs_status(address: str, name: str | None = None) -> JobsStatus:
    """Raises ConfigError with the nearest name where there is no such sweep."""
    cluster = connect(address)
    if name is not None:
        jobs = attempts(cluster, name)
        return JobsStatus(cluster.address, tuple(jobs), tail(cluster.log(jobs[-1]), 1).strip())
    return JobsStatus(cluster.address, tuple(attempts(cluster, each)[-1] for each in cluster.names()), "")


def job_log(address: str, name: str) -> str:
    """All that the newest attempt printed so far. Raises ConfigError where there is none."""
    cluster = connect(address)
    return cluster.log(attempts(cluster, name)[-1])


def follow_job(address: str, name: str, show: Callable[[str], None]) -> None:
    """Hand on what the newest attempt prints until it ends. Raises PoolError where that was otherwise than well."""
    cluster = connect(address)
    check(cluster.follow(attempts(cluster, name)[-1], show))


def stop_job(address: str, name: str, report: Report = silent) -> Job:
    """Let the newest attempt save and leave; the job as it ended. Raises PoolError where it does not."""
    cluster = connect(address)
    job = attempts(cluster, name)[-1]
    if not job.goes_on:
        return job
    cluster.stop(job)
    report(Said(f"{job.id} was asked to leave; its trials save their step (up to {STOP_WAIT_S} s)"))
    ended = cluster.wait(job, STOP_WAIT_S + 30)
    if ended.goes_on:
        raise PoolError(f"{job.id} is still {ended.state.lower()}; `haps logs {name} --address {address}` may say why")
    return ended


def check(job: Job) -> None:
    """Raises PoolError where a job ended otherwise than well, with what Ray says of it and the way out."""
    if job.state != "SUCCEEDED":
        why = job.message.splitlines()[0] if job.message else "no reason given"
        raise PoolError(f"{job.id} {job.state.lower()}: {why}; `haps submit` again goes on where it was left")


def tail(text: str, lines: int) -> str:
    """The last lines of a text."""
    return "".join(text.splitlines(keepends=True)[-lines:])


def before_tail(text: str, lines: int) -> int:
    """How many characters stand before the last lines."""
    return len(text) - len(tail(text, lines))
