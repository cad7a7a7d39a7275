"""A sweep sent to a Ray cluster with tokens, killed, stopped and sent again: on a real head, through the commands."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from haps_search.records.jsonl import read_records
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import lock_file, trial_folder
from haps_search.sweep.lock import holder

pytestmark = pytest.mark.ray
TRIALS, STEPS = 2, 40
STUDY = Path(__file__).parents[2] / "search_spaces" / "skills.yaml"
SETTINGS = [
    f"sweep.trials={TRIALS}", "sweep.concurrency=2", "sweep.scheduler={type: none}", "sweep.comparison=false",
    f"run.steps={STEPS}", "run.questions_per_step=8", "run.episodes_per_question=2", "run.checkpoint_every=200",
    "run.validation={every: 200, questions: 12}", "task.sizes={train: 64, validation: 24, test: 24}",
    "tracking.mlflow=false",
]  # fmt: skip


class Head:
    """A Ray head of this test's own on loopback, with a token; `haps` gives the command line's answer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32))
        self.port, self.dashboard, agent, client = _free_ports(4)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        command = [
            "ray", "start", "--head", "--node-ip-address", "127.0.0.1", "--port", self.port,
            "--dashboard-host", "127.0.0.1", "--dashboard-port", self.dashboard, "--include-dashboard", "true",
            "--dashboard-agent-listen-port", agent, "--ray-client-server-port", client,
            "--temp-dir", folder / "ray", "--num-cpus", 4, "--object-store-memory", 200_000_000, "--block",
        ]  # fmt: skip
        self._log = (folder / "head.log").open("w")
        self._process = subprocess.Popen(
            [str(part) for part in command],
            env=self._environment(), stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def haps(self, *arguments: object, token: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command with its `--address`, run elsewhere than in the checkout."""
        return subprocess.run(
            [sys.executable, "-m", "haps_search.cli.main", *map(str, arguments), "--address", self.address],
            cwd=self.folder, env=self._environment(token), capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def submit(self, *more: str) -> subprocess.CompletedProcess[str]:
        settings = [part for setting in SETTINGS for part in ("--set", setting)]
        return self.haps("submit", STUDY, "--name", "sent", "--runs", self.runs, *settings, *more)

    def wait_until_up(self) -> None:
        wait_for(lambda: self.haps("status").returncode == 0, "the head never came up")

    def end(self) -> None:
        """The head and what it started: all are in the process group that `start_new_session` made."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, kind)
            time.sleep(1)
        self._process.wait()
        self._log.close()

    def _environment(self, token: Path | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HAPS_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token or self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))  # short: unix sockets allow about 100 characters
    started = Head(folder)
    try:
        started.wait_until_up()
        yield started
    finally:
        started.end()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def steps_of(sweep: Path, number: int) -> list[int]:
    path = trial_folder(sweep, number) / "metrics.jsonl"
    return [record.step for record in read_records(path)] if path.exists() else []


def under_way(sweep: Path, since: float) -> list[int]:
    """Trials that took steps, or were brought back to their checkpoint, since a time, and are not near their end."""
    trials = Journal(sweep).trials() if sweep.exists() else []
    files = {t.number: trial_folder(sweep, t.number) / "metrics.jsonl" for t in trials if t.state == "running"}
    touched = [n for n, file in files.items() if file.exists() and file.stat().st_mtime > since]
    return [n for n in touched if len(steps_of(sweep, n)) < STEPS // 2]


def state_of(head: Head, job: str) -> str:
    told = head.haps("status", "sent").stdout.splitlines()
    return next(line.split()[1] for line in told if line.startswith(f"{job} "))


def test_a_submitted_sweep_survives_kill_and_stop_and_ends_with_every_trial_once(head: Head) -> None:
    sweep = head.runs / "sent"
    nowhere = head.folder / "other-token"
    nowhere.touch(mode=0o600)
    nowhere.write_text(secrets.token_hex(32))
    refused = head.haps("submit", STUDY, "--runs", head.runs, token=nowhere)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert not sweep.exists()

    first = head.submit("--no-follow")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"submitted sent-1 to {head.address}")
    wait_for(lambda: bool(under_way(sweep, 0)), "the first attempt never came to its middle")
    again = head.submit("--no-follow")
    assert again.stdout.startswith("sent-1 runs on"), again.stdout + again.stderr
    held = holder(lock_file(sweep))
    assert held is not None
    os.kill(held["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(head, "sent-1") == "failed", "Ray never saw the driver's death", 30)

    since = time.time()
    second = head.submit("--no-follow")
    assert second.stdout.startswith("submitted sent-2 "), second.stdout + second.stderr
    wait_for(lambda: bool(under_way(sweep, since)), "the second attempt never came to its middle")
    stopped = head.haps("stop", "sent")
    assert stopped.returncode == 0, stopped.stderr
    assert "sent-2 stopped; `haps submit` again" in stopped.stdout
    saved = {n: len(steps_of(sweep, n)) for n in under_way(sweep, since)}
    assert any(saved.values()), "nothing was under way, so nothing was saved"
    for number, steps in saved.items():
        assert _newest_checkpoint(sweep, number) == steps, "a step that was taken was not saved"

    third = head.submit()
    assert third.returncode == 0, third.stdout + third.stderr
    assert third.stdout.startswith("submitted sent-3 ")
    assert "best trial" in third.stdout
    trials = Journal(sweep).trials()
    assert [t.number for t in trials] == list(range(TRIALS))
    assert {t.state for t in trials} == {"finished"}
    for number in range(TRIALS):
        assert steps_of(sweep, number) == list(range(1, STEPS + 1)), "a step is missing or there twice"

    done = head.submit()
    assert done.returncode == 0
    assert done.stdout.startswith("sent-3 has ended, all trials are done")
    assert "best trial" in done.stdout
    assert head.token.read_text() not in head.haps("logs", "sent").stdout


def _newest_checkpoint(sweep: Path, number: int) -> int:
    found = (trial_folder(sweep, number) / "checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)
