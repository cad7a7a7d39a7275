"""A sweep as a job of a Ray cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haps_search.config.engines import ClusterProfile, RayEngineConfig
from haps_search.config.load import fingerprint, load_profile
from haps_search.config.sweep import Study
from haps_search.engines.cluster.jobs import Cluster
from haps_search.errors import ConfigError
from haps_search.sweep.packing import own_package, pack
from haps_search.sweep.submission import (
    Attach,
    Begin,
    Done,
    Job,
    checked_runs,
    decide,
    entrypoint,
    environment,
    metadata,
    place,
)
from haps_search.verbs.cluster_jobs import before_tail, check, connect, tail
from haps_search.verbs.events import Report, Said, Wrote, silent
from haps_search.verbs.find import named_folder

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


def submit(
    study: Study,
    address: str | None = None,
    *,
    profile: str | None = None,
    name: str | None = None,
    runs: str | None = None,
    env: Sequence[str] = (),
    installed: bool = False,
    follow: bool = True,
    report: Report = silent,
) -> Job:
    """Send a sweep to a cluster; the same again attaches to it, resumes it, or says that it is done. `study` is as
    `read_study` gives it, its file names not yet made absolute; `env` names variables that are taken along.

    Raises:
        ConfigError: no cluster, no profile, or what cannot be sent. PoolError: the job ended otherwise than well.
    """
    described = _profile(study, profile)
    where, kept = _address(address, described), checked_runs(runs)
    called = named_folder(Path("/"), name or study.name).name
    variables = environment(env, os.environ)
    with tempfile.TemporaryDirectory() as folder:
        modules = () if installed else (own_package(),)
        return send(Submission(study, described, called, kept, Path(folder), modules, variables), where, follow, report)


def send(what: Submission, address: str, follow: bool, report: Report) -> Job:
    """Begin, attach, or say that it is done. Raises ConfigError, PoolError."""
    sealed = fingerprint(pack(what.study, what.profile, what.folder))
    cluster = connect(address)
    decided = decide(what.name, cluster.attempts(what.name), what.runs, sealed)
    match decided:
        case Done(job):
            report(Said(f"{job.id} has ended, all trials are done: `haps logs {what.name} --address {address}`"))
            report(Wrote(tail(cluster.log(job), TAIL)))
            return job
        case Attach(job, other):
            report(Said(f"{job.id} runs on {address}; attaching to it"))
            if other:
                first = f"`haps stop {what.name}` first to change them"
                report(Said(f"note: it runs under other settings than these; {first}"))
            return _watch(cluster, what.name, job, follow, report, before_tail(cluster.log(job), TAIL))
        case Begin():
            job = _begin(cluster, what, decided, sealed, report)
            return _watch(cluster, what.name, job, follow, report)


def _begin(cluster: Cluster, what: Submission, begin: Begin, sealed: str, report: Report) -> Job:
    said = metadata(what.name, what.runs, sealed)
    command = entrypoint(what.name, what.runs)
    job = cluster.submit(begin, command, what.folder, what.modules, what.environment, said)
    goes_on = "; it goes on where the last attempt was left" if begin.attempt > 1 else ""
    report(Said(f"submitted {job.id} to {cluster.address}, sweep in {place(what.name, what.runs)}{goes_on}"))
    return job


def _watch(cluster: Cluster, name: str, job: Job, follow: bool, report: Report, seen: int = 0) -> Job:
    """Raises PoolError where the job ended otherwise than well."""
    at = f"{name} --address {cluster.address}"
    if not follow:
        report(Said(f"next        haps status {at}    haps logs {at} --follow    haps stop {at}"))
        return job
    try:
        ended = cluster.follow(job, lambda text: report(Wrote(text)), seen)
    except KeyboardInterrupt:
        report(Said(f"\n{job.id} goes on. `haps logs {at} --follow` attaches again, `haps stop {at}` ends it"))
        raise
    check(ended)
    return ended


def _profile(study: Study, given: str | None) -> ClusterProfile:
    engine = study.experiment.engine
    if given is not None:
        return load_profile(given)
    if isinstance(engine, RayEngineConfig):
        return load_profile(engine.profile)
    raise ConfigError("experiment.engine: type local has no cluster to be sent to: give --profile")


def _address(given: str | None, profile: ClusterProfile) -> str:
    address = given or profile.dashboard
    if address is None:
        raise ConfigError(
            f"no cluster: give --address http://HOST:8265, or write `dashboard` into profile {profile.name}"
        )
    return address
