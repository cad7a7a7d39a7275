"""What to do with a sweep that is submitted: begin an attempt, attach to the one that runs, or say that it is done.

A sweep's jobs on a cluster are called NAME-1, NAME-2, ..., since Ray refuses an id twice; each attempt goes on where
the one before was left.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from haps_search.errors import ConfigError
from haps_search.records.objects import checked, joined

State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
GOES_ON: tuple[State, ...] = ("PENDING", "RUNNING")
STUDY_FILE = "study.yaml"
STOP_WAIT_S = 90
"""Between Ray's SIGTERM and SIGKILL: longer than a driver takes to let trials save and to end its pool."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at a sweep, as the cluster tells it. `message` is Ray's, empty where it has none.

    `runs` and `fingerprint` are None for a job that `ray job submit` began under an attempt's id.
    """

    id: str
    attempt: int
    state: State
    runs: str | None = None
    fingerprint: str | None = None
    message: str = ""

    @property
    def goes_on(self) -> bool:
        return self.state in GOES_ON


@dataclass(frozen=True, slots=True)
class Begin:
    """Submit a job of this id."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Attach:
    """The sweep runs; `other` where it runs under another configuration than the one submitted."""

    job: Job
    other: bool


@dataclass(frozen=True, slots=True)
class Done:
    """The sweep ended under this very configuration."""

    job: Job


def job_id(name: str, attempt: int) -> str:
    return f"{name}-{attempt}"


def attempt_of(name: str, submission_id: str | None) -> int | None:
    """The attempt that a job's id stands for, None for a job of something else."""
    number = (submission_id or "").removeprefix(f"{name}-")
    return int(number) if submission_id == f"{name}-{number}" and re.fullmatch("[1-9][0-9]*", number) else None


def decide(name: str, jobs: Iterable[Job], runs: str, fingerprint: str) -> Begin | Attach | Done:
    """What submitting the sweep `name` means, given its attempts so far.

    Raises:
        ConfigError: the last attempt keeps its runs elsewhere, so it is another sweep of that name.
    """
    last = max(jobs, key=lambda job: job.attempt, default=None)
    if last is None:
        return Begin(job_id(name, 1), 1)
    if last.runs is not None and last.runs != runs:
        raise ConfigError(
            f"was submitted with --runs {last.runs}, now {runs}: give that one, or another --name", f"sweep {name}"
        )
    same = last.fingerprint in (None, fingerprint)
    if last.goes_on:
        return Attach(last, other=not same)
    if last.state == "SUCCEEDED" and same:
        return Done(last)
    return Begin(job_id(name, last.attempt + 1), last.attempt + 1)


def entrypoint(name: str, runs: str) -> str:
    """The shell command of a job: the same verb as by hand. It holds no secret, since Ray shows it."""
    return shlex.join(["python3", "-m", "haps_search.cli.main", "sweep", STUDY_FILE, "--name", name, "--runs", runs])


def checked_runs(runs: str | None) -> str:
    """Where a job keeps its runs: an object store's address, or an absolute path, as jobs have working folders of their
    own. Raises ConfigError for anything else, and for an address with a key in it.
    """
    if runs is not None and "://" in runs:
        return checked(runs)
    if runs is None or not PurePosixPath(runs).is_absolute():
        got = "no --runs" if runs is None else f"--runs {runs}"
        raise ConfigError(
            f"got {got}, needs the absolute path of a folder that every node of the cluster sees (NFS, a shared "
            "volume), as in --runs /shared/runs, or an object store, as in --runs s3://BUCKET/runs"
        )
    return str(PurePosixPath(runs))


def place(name: str, runs: str) -> str:
    """Where a sweep lies under the runs of its job."""
    return joined(runs, name) if "://" in runs else f"{runs}/{name}"


def environment(names: Iterable[str], here: Mapping[str, str]) -> dict[str, str]:
    """The variables of a job: those named, with their values from here, and how long Ray lets it leave.

    Raises:
        ConfigError: a name that is not set here, or NAME=VALUE, which would be a secret on a command line.
    """
    problems = [
        f"--env {n.partition('=')[0]}=...: give the name alone; its value is taken from here" for n in names if "=" in n
    ]
    problems += [f"--env {n}: is not set here; export it first" for n in names if "=" not in n and n not in here]
    if problems:
        raise ConfigError(problems)
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **{n: here[n] for n in names}}


def metadata(name: str, runs: str, fingerprint: str) -> dict[str, str]:
    """What a job says of itself, for the next `haps submit` to read."""
    return {"haps_sweep": name, "haps_runs": runs, "haps_fingerprint": fingerprint}


def job_of(attempt: int, submission_id: str, state: State, told: Mapping[str, Any] | None, message: str | None) -> Job:
    """A job from what Ray lists."""
    told = told or {}
    return Job(submission_id, attempt, state, told.get("haps_runs"), told.get("haps_fingerprint"), message or "")
