"""MLflow's own pages on a sweep, and its store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from haps_search.config.sweep import Study
from haps_search.errors import TrackerError
from haps_search.records.mlflow_pages import compare_page, runs_page, share_view
from haps_search.records.mlflow_tracker import MlflowStore, Sweep, default_uri
from haps_search.sweep.journal import Journal

LOOPBACK = "127.0.0.1"
START_S = 240


@dataclass(frozen=True, slots=True)
class Pages:
    """Addresses of a sweep's runs and of the comparison of its trials, None where it has fewer than two."""

    runs: str
    compare: str | None


def pages(journal: Journal, base: str) -> Pages:
    """Where a server at `base` shows a sweep; the view of its runs is kept in the store.

    Raises:
        TrackerError: the store cannot be used, or was made by another version of MLflow.
    """
    study = journal.study()
    store = MlflowStore(store_uri(journal, study), "haps_search")
    sweep = Sweep(journal.folder.name, journal.begun())
    key = share_view(store, sweep, _columns(study), list(study.space), _best(study))
    return Pages(runs_page(base, store.experiment_id, key), compare_page(base, store, sweep))


def store_uri(journal: Journal, study: Study) -> str:
    return study.tracking.uri or default_uri(journal.folder.parent)


def served_at(uri: str) -> str | None:
    """Where a store is served already, None where it is a file or database that has to be."""
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else None


def _columns(study: Study) -> list[str]:
    return list(dict.fromkeys([*study.sweep.asked, "reward", "route_entropy"]))


def _best(study: Study) -> str:
    objective = study.sweep.objectives[0]
    return objective.metric if objective.mode == "max" else f"-{objective.metric}"


class Server:
    """`mlflow server` on loopback over a store, as a process of its own."""

    def __init__(self, uri: str, runs: Path, port: int) -> None:
        """Starts it and waits until it answers.

        Raises:
            TrackerError: it ended, or did not answer in time; says what it printed last.
        """
        self.url = f"http://{LOOPBACK}:{port}"
        hosts = f"{LOOPBACK}:{port},localhost:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", LOOPBACK]
        command += ["--port", str(port), "--workers", "1", "--allowed-hosts", hosts]
        command += ["--artifacts-destination", str(runs.resolve() / "mlflow-artifacts")]
        # Its queues of jobs are ten processes that nobody here asks for anything.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._log = runs.resolve() / "mlflow-server.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def serve(self) -> None:
        """Until it ends, or Ctrl-C ends it."""
        try:
            self._process.wait()
        finally:
            self.stop()

    def stop(self) -> None:
        """With the workers it has started."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
                return

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
            else:
                return
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise TrackerError(f"mlflow server did not start on {self.url}: {''.join(last)}; see {self._log}, try --port")
