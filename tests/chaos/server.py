"""A real MLflow server on loopback, on sqlite, that can be killed and started again."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from pathlib import Path

from processes import Started, free_ports

HOST = "127.0.0.1"
START_S = 600.0
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


class Server:
    """The same address and the same database at every start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        self.uri = f"http://{HOST}:{self._port}"
        self._process: Started | None = None

    @property
    def up(self) -> bool:
        """Whether it was started; it may still be on its way."""
        return self._process is not None

    def start(self) -> None:
        if self._process is not None:
            return
        hosts = f"localhost:{self._port},{HOST}:{self._port}"
        command = [
            Path(sys.executable).parent / "mlflow", "server", "--host", HOST, "--port", self._port, "--workers", 1,
            "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}",
            "--artifacts-destination", self._folder / "artifacts", "--allowed-hosts", hosts,
        ]  # fmt: skip
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self._process = Started(command, kept | _QUIET, self._folder / "mlflow.log", self._folder)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def wait(self) -> None:
        """Until it answers. Raises TimeoutError."""
        deadline = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no MLflow at {self.uri} after {START_S:g} s; see {self._folder / 'mlflow.log'}")
            time.sleep(0.5)

    def end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
