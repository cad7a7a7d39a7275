"""A Ray head of a test's own on loopback, with a token: by the commands of README, section On a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from patience import growth, wait_for
from processes import Started, completed, free_ports, title

ROOT = Path(__file__).parents[1]
BESIDE_PYTHON = str(Path(sys.executable).parent)


def readme_blocks() -> tuple[str, list[str], str]:
    """The script that starts a head, the commands that use it, one a line, and Ray's own command."""
    section = (ROOT / "README.md").read_text().split("\n## On a cluster\n")[1].split("\n## ")[0]
    script, commands, rays = re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return script, commands.splitlines(), rays


def replaced(text: str, what: Mapping[str, object]) -> str:
    """The text with places and ports of README's replaced; each of them has to be there."""
    for old, new in what.items():
        assert old in text, f"README says {old} no more"
        text = text.replace(old, str(new))
    return text


class Head:
    """Its home is its folder, so that what jobs leave there goes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs, self.token = folder, folder / "runs", folder / ".ray-token"
        port, dashboard, agent, client = free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        own = f"--dashboard-agent-listen-port {agent} --ray-client-server-port {client}"
        small = f"{folder}/ray {own} --object-store-memory 200000000"
        script = replaced(
            readme_blocks()[0],
            {". .venv/bin/activate\n": "set -e\n", "6379": port, "8265": dashboard, "/tmp/ray-here": small},
        )
        self._head = Started(["bash", "-c", script], self.environment(tokens=False), folder / "head.log", folder)

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A line of shell in the head's folder, which is elsewhere than the checkout."""
        around = self.environment() | environment
        return completed(["bash", "-c", command], self.folder, around, growth(self.runs))

    def haps(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A verb with this head's `--address`."""
        return self.run(f"haps {command} --address {self.address}", **environment)

    def state_of(self, job: str) -> str:
        told = self.haps(f"status {job.rpartition('-')[0]}").stdout.splitlines()
        return next((line.split()[1] for line in told if line.startswith(f"{job} ")), "")

    def log_of(self, sweep: str) -> Callable[[], str]:
        """What its newest attempt printed, for whoever waited in vain."""
        return lambda: self.haps(f"logs {sweep}").stdout[-3000:]

    def workers(self, beginning: str) -> list[int]:
        """Ids of Ray's processes here whose title begins so, oldest first."""
        return sorted(process.pid for process in self._head.tree() if title(process).startswith(beginning))

    def wait_until_up(self) -> None:
        said = self._head.printed
        wait_for(lambda: self.haps("status").returncode == 0, said, self._head, growth(self._head.log))

    def end(self) -> None:
        """The head and what it started, which has a session of its own, or holds the files of its folder."""
        self._head.end()

    def environment(self, tokens: bool = True) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HAPS_"))}
        own = {
            "PATH": f"{BESIDE_PYTHON}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        return kept | own | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)} if tokens else {})


class Attempt:
    """A job as a process that runs or has ended. It is asked after seldom, since asking takes seconds."""

    EVERY_S = 20.0

    def __init__(self, head: Head, job: str) -> None:
        self._head, self._job = head, job
        self._asked = time.monotonic()
        self._code: int | None = None

    def poll(self) -> int | None:
        if time.monotonic() - self._asked > self.EVERY_S:
            self._code = {"succeeded": 0, "stopped": -15, "failed": 1}.get(self._head.state_of(self._job))
            self._asked = time.monotonic()
        return self._code
