"""A Ray head of a test's own on loopback, with a token: by the commands of README, section On a cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

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
        port, dashboard, agent, client = _free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        own = f"--dashboard-agent-listen-port {agent} --ray-client-server-port {client}"
        small = f"{folder}/ray {own} --object-store-memory 200000000"
        script = replaced(
            readme_blocks()[0],
            {". .venv/bin/activate\n": "set -e\n", "6379": port, "8265": dashboard, "/tmp/ray-here": small},
        )
        self._log = (folder / "head.log").open("w")
        self._process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder, env=self.environment(tokens=False), stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def run(self, command: str, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        """A line of shell in the head's folder, which is elsewhere than the checkout."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder, env=self.environment() | environment, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip

    def haps(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A verb with this head's `--address`."""
        return self.run(f"haps {command} --address {self.address}", **environment)

    def state_of(self, job: str) -> str:
        told = self.haps(f"status {job.rpartition('-')[0]}").stdout.splitlines()
        return next((line.split()[1] for line in told if line.startswith(f"{job} ")), "")

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


def wait_for(condition: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
