"""A Ray cluster of logical nodes on loopback: a head, and nodes that come and go."""

from __future__ import annotations

import os
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from processes import Started, free_ports, title

HOST = "127.0.0.1"
START_S = 600.0
STORE = 100_000_000
"""Bytes of each node's object store."""
_SICK = Path(__file__).with_name("sick")
_JOINED = "Ray runtime started"


class Cluster:
    """A head of one logical CPU, and nodes of one each, in a folder of its own with a short path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ray").mkdir()
        self._token = folder / "token"
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32))
        self._port, self._client = free_ports(2)
        self.address = f"{HOST}:{self._port}"
        self.head: Started | None = None
        self.nodes: dict[str, Started] = {}
        self._frozen: dict[str, Started] = {}
        self.sick = folder / "sick"
        """While it is there, models cannot be loaded, for the reason that it holds."""
        self._count = 0

    def start(self, nodes: int) -> None:
        """The head, and so many nodes beside it. Raises TimeoutError."""
        self.head = self._start("head", "--head", "--port", self._port, "--ray-client-server-port", self._client,
            "--include-dashboard", "false", "--temp-dir", self.folder / "ray")  # fmt: skip
        self._wait_for(self.head)
        for _ in range(nodes):
            self.add()

    def environment(self) -> dict[str, str]:
        """Of every process that joins this cluster."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HAPS_", "MLFLOW_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_SICK), os.environ.get("PYTHONPATH")])),
            "CHAOS_SICK": str(self.sick),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def add(self) -> str:
        """A node more, once it has joined; two that start at the same moment take the same socket. Returns its name.

        Raises TimeoutError.
        """
        self._count += 1
        name = f"node-{self._count}"
        self.nodes[name] = self._start(name, "--address", self.address)
        self._wait_for(self.nodes[name])
        return name

    def remove(self, name: str) -> None:
        """As if its machine were unplugged."""
        self.nodes.pop(name).kill()

    def freeze(self, name: str) -> None:
        """As if its machine stood still: nothing of it ends, and nobody hears of it."""
        node = self._frozen[name] = self.nodes.pop(name)
        for process in node.tree():
            with suppress(psutil.Error):
                process.suspend()

    def thaw(self, name: str) -> None:
        """It wakes, whatever was done in its place meanwhile."""
        for process in self._frozen[name].tree():
            with suppress(psutil.Error):
                process.resume()

    def replace(self, name: str) -> None:
        """End what woke, and let another node join. Raises TimeoutError."""
        self._frozen.pop(name).kill()
        self.add()

    def workers(self, *titles: str) -> list[psutil.Process]:
        """Ray's processes on all nodes whose title begins so, oldest first."""
        nodes = [*([self.head] if self.head else []), *self.nodes.values()]
        found = [process for node in nodes for process in node.tree() if title(process).startswith(titles)]
        return sorted(found, key=lambda process: process.pid)

    def end(self) -> None:
        for name in list(self.nodes):
            self.nodes.pop(name).end()
        for name in list(self._frozen):
            self._frozen.pop(name).kill()
        if self.head is not None:
            self.head.end()

    def _wait_for(self, node: Started) -> None:
        deadline = time.monotonic() + START_S
        while _JOINED not in node.log.read_text():
            if node.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"{node.log}: no node of Ray after {START_S:g} s: {node.log.read_text()[-500:]}")
            time.sleep(0.2)

    def _start(self, name: str, *arguments: object) -> Started:
        (agent,) = free_ports(1)
        common = [
            "--node-ip-address", HOST, "--num-cpus", 1, "--object-store-memory", STORE, "--block",
            "--dashboard-agent-listen-port", agent, "--min-worker-port", 0, "--max-worker-port", 0,
        ]  # fmt: skip
        command = [Path(sys.executable).parent / "ray", "start", *arguments, *common]
        own = {k: v for k, v in self.environment().items() if k != "RAY_ADDRESS"}
        return Started(command, own, self.folder / f"{name}.log", self.folder)
