"""Sweeps as Ray jobs: submit, find, follow, stop. Talks HTTP to a cluster's dashboard and starts no Ray here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

from haps_search.engines.cluster.failures import refused
from haps_search.errors import Kind, PoolError
from haps_search.faults.policy import Failures, Over, Policy, persistently
from haps_search.sweep.submission import Begin, Job, attempt_of, job_of

AGAIN_S = 3.0
"""How often a job that is followed is asked how it is."""
FOLLOWING, SENDING = Policy(within_s=120.0), Policy(within_s=120.0)
"""A dashboard that does not answer, and a head whose agent is not there yet, are asked again."""
NO_AGENT = "No available agent to submit job"
"""Ray's words, after ten seconds and with status 500, of a head that is up but for what starts jobs there."""
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class Cluster:
    """The jobs of one cluster. Every method raises ConfigError where the token is not taken, PoolError where the
    cluster does not answer.
    """

    def __init__(self, address: str) -> None:
        """Connect to the dashboard at `address`, as in http://127.0.0.1:8265."""
        self.address = address
        with self._asking(), _without_overrides():
            self._client: Any = JobSubmissionClient(address)

    def attempts(self, name: str) -> list[Job]:
        """The jobs of a sweep, by attempt."""
        numbered = [(attempt_of(name, info.submission_id), info) for info in self._list()]
        return sorted((_job(info, n) for n, info in numbered if n is not None), key=lambda job: job.attempt)

    def names(self) -> list[str]:
        """The sweeps that `haps submit` sent here."""
        return sorted({info.metadata["haps_sweep"] for info in self._list() if "haps_sweep" in (info.metadata or {})})

    def submit(
        self, begin: Begin, entrypoint: str, folder: Path, modules: Sequence[Path], environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> Job:  # fmt: skip
        """Send a folder and an entrypoint as a job on the head node; again while that starts."""
        runtime_env = {
            "working_dir": str(folder),
            "py_modules": [str(module) for module in modules],
            "env_vars": dict(environment),
        }
        with self._asking():
            # No entrypoint resources: Ray then runs the driver on the head node, where broker and journal belong.
            self._send(entrypoint=entrypoint, runtime_env=runtime_env, metadata=dict(metadata), submission_id=begin.id)
        return job_of(begin.attempt, begin.id, "PENDING", metadata, None)

    def _send(self, **job: Any) -> None:
        asked = False

        def sent() -> None:
            nonlocal asked
            if asked and any(info.submission_id == job["submission_id"] for info in self._list()):
                return  # an agent had it, and answered too late
            asked = True
            try:
                self._client.submit_job(**job)
            except RuntimeError as error:
                if NO_AGENT not in str(error):
                    raise
                raise PoolError(
                    f"{self.address}: the head has no agent that takes jobs, asked for {SENDING.within_s:.0f} s; see "
                    "dashboard_agent.log there, then `haps submit` again"
                ).of_kind(Kind.TRANSIENT) from error

        persistently(sent, self.address, SENDING)

    def refreshed(self, job: Job) -> Job:
        """The job as it is now."""
        with self._asking():
            return _job(self._client.get_job_info(job.id), job.attempt)

    def log(self, job: Job) -> str:
        """All that the job has printed."""
        with self._asking():
            return str(self._client.get_job_logs(job.id))

    def stop(self, job: Job) -> None:
        """Ask a job to leave; Ray sends SIGTERM, and SIGKILL later. Comes back at once."""
        with self._asking():
            self._client.stop_job(job.id)

    def wait(self, job: Job, timeout_s: float) -> Job:
        """The job when it has ended, or as it is when the time is over."""
        deadline = time.monotonic() + timeout_s
        while (now := self.refreshed(job)).goes_on and time.monotonic() < deadline:
            time.sleep(0.5)
        return now

    def follow(self, job: Job, show: Callable[[str], None], seen: int = 0) -> Job:
        """Show what the job prints, from character `seen` on, until it ends; connections that break are taken up."""
        reader, failures = _Reader(show, seen), Failures(FOLLOWING)
        while True:
            try:
                asyncio.run(self._tail(job, reader))
                now = self.refreshed(job)
                if not now.goes_on:
                    return now
                failures.forget()
            except (PoolError, RuntimeError, OSError, aiohttp.ClientError) as error:
                if isinstance(failures.follow(Kind.TRANSIENT), Over):  # whatever it is, the job does not depend on it
                    raise PoolError(f"{self.address} answers no more ({error}); the job goes on there") from error
            time.sleep(AGAIN_S)

    async def _tail(self, job: Job, reader: _Reader) -> None:
        reader.restart()
        async for text in self._client.tail_job_logs(job.id):
            reader.read(text)

    def _list(self) -> list[Any]:
        with self._asking():
            return list(self._client.list_jobs())

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, RayError) as error:
            raise refused(error, self.address) from error
        except (RuntimeError, OSError) as error:
            raise PoolError(f"{self.address}: {error}") from error


class _Reader:
    """Shows a text that is read from its beginning again and again, each part of it once."""

    def __init__(self, show: Callable[[str], None], seen: int) -> None:
        self._show, self._seen, self._at = show, seen, 0

    def restart(self) -> None:
        self._at = 0

    def read(self, text: str) -> None:
        fresh = text[max(self._seen - self._at, 0) :]
        self._at += len(text)
        self._seen = max(self._seen, self._at)
        if fresh:
            self._show(fresh)


def _job(info: Any, attempt: int) -> Job:
    return job_of(attempt, info.submission_id, info.status.value, info.metadata, info.message)


@contextmanager
def _without_overrides() -> Iterator[None]:
    """Ray lets these variables override the address that it is given; here the address given holds."""
    before = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
