"""Where it happens: a cluster, an MLflow server, and one driver at a time, all of this run's own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from processes import Started

from chaos.cluster import STORE, Cluster
from chaos.server import Server
from haps_search.sweep.layout import lock_file
from haps_search.sweep.lock import holder

STUDY = Path(__file__).parents[2] / "search_spaces" / "skills.yaml"
TRIALS, STEPS, VALIDATED, EVERY = 4, 120, 12, 30
DEADLINE_S = 10.0
SETTINGS = [
    f"sweep.trials={TRIALS}", "sweep.concurrency=2", "sweep.scheduler={type: none}", "sweep.comparison=false",
    f"run.steps={STEPS}", "run.questions_per_step=8", "run.episodes_per_question=2", "run.checkpoint_every=5",
    f"run.validation={{every: {EVERY}, questions: {VALIDATED}}}", "task.sizes={train: 64, validation: 24, test: 24}",
    # A step that is taken again has to come to the same numbers, whatever shares its batches.
    *(f"candidates.{n}.dtype=float64" for n in range(3)), "routing.backbone.dtype=float64",
]  # fmt: skip
PROFILE = {
    "name": "chaos",
    "address": "auto",
    "candidate": {"cpus": 0.25},
    "router": {"cpus": 0.5},
    "trial": {"cpus": 0.0},
    "leases": {"deadline_s": DEADLINE_S},
    "worker_start_timeout_s": 90,
}
NODES = 2
REFUSED_S = 600.0
"""A second driver is refused as soon as it has started, which takes a slow machine its time."""


@dataclass
class Stage:
    """`sweeps` are all that were begun, the last one being driven."""

    folder: Path
    seed: int
    driver: Started | None = None
    sweeps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = self.folder / "runs"
        self.runs.mkdir()
        (self.folder / "chaos.yaml").write_text(yaml.safe_dump(PROFILE))
        self.server, self.cluster = Server(self.folder), Cluster(self.folder)
        self.hog: Started | None = None

    def start(self) -> None:
        """Raises TimeoutError."""
        self.server.start()
        self.cluster.start(NODES)
        self.server.wait()

    @property
    def sweep(self) -> Path:
        """The folder of the sweep that is being driven."""
        return self.runs / self.sweeps[-1]

    @property
    def holds(self) -> bool:
        """Whether the driver lives and has its sweep."""
        held = holder(lock_file(self.sweep)) if self.driver is not None else None
        return held is not None and self.driver is not None and held.get("pid") == self.driver.pid

    def begin(self) -> None:
        """A sweep more, with a name and a seed of its own."""
        self.sweeps.append(f"s{len(self.sweeps):02d}")
        own = [f"engine.profile={self.folder / 'chaos.yaml'}", f"sweep.seed={self.seed + len(self.sweeps)}"]
        set_ = [part for setting in (*SETTINGS, *own) for part in ("--set", setting)]
        self.driver = self._haps("sweep", STUDY, "--name", self.sweeps[-1], "--tracking-uri", self.server.uri, *set_)

    def resume(self) -> None:
        """Unless it was killed before it wrote a word, and then it is begun."""
        if (self.sweep / "journal.jsonl").exists():
            self.driver = self._haps("resume", self.sweeps[-1])
        else:
            self.sweeps.pop()
            self.begin()

    def again(self, name: str) -> int:
        """Resume a sweep that has ended; its exit code."""
        self.driver = self._haps("resume", name)
        return self.driver.wait()

    def second(self) -> tuple[int, str]:
        """What another driver of the same sweep is told: its exit code, and its last line."""
        other = self._haps("resume", self.sweeps[-1], log="second.log")
        try:
            code = other.wait(REFUSED_S)
        except subprocess.TimeoutExpired:
            other.kill()
            return 0, "it went on beside the first"
        lines = other.log.read_text().strip().splitlines()
        return code, lines[-1] if lines else ""

    def fill(self) -> Started:
        """A driver beside the sweep's that fills a node's object store as long as it lives."""
        command = [sys.executable, Path(__file__).with_name("hog.py"), STORE]
        self.hog = Started(command, self.cluster.environment(), self.folder / "hog.log", self.folder)
        return self.hog

    def owes(self) -> bool:
        """Whether the last driver said that MLflow did not take everything."""
        _, _, last = (self.folder / "driver.log").read_text().rpartition("\nstarting ")
        return "MLflow did not take everything" in last

    def said(self) -> str:
        """The last line of the driver's output that is no progress."""
        log = self.driver.log if self.driver else self.folder / "driver.log"
        lines = [line for line in log.read_text().splitlines() if line.strip() and not re.match(r"\s*\d+% done", line)]
        return lines[-1][:160] if lines else ""

    def end(self) -> None:
        """All processes, in the order in which they depend on one another."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.signal(signal.SIGCONT)
            self.driver.kill()
        if self.hog is not None:
            self.hog.kill()
        self.cluster.end()
        self.server.end()

    def _haps(self, *arguments: object, log: str = "driver.log") -> Started:
        command = [sys.executable, "-m", "haps_search.cli.main", *arguments, "--runs", self.runs]
        return Started(command, self.cluster.environment(), self.folder / log, self.folder)
