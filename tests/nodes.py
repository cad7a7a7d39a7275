"""Several logical nodes on this machine, each with a raylet of its own, for drivers that are other processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from patience import growth, wait_for
from processes import Started, short_folder

from haps_search.engines.local import LocalEngine
from haps_search.records.jsonl import Record, read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task

ROOT = Path(__file__).parents[1]
WORKER, ROUTER, TRIAL, BROKER = "ray::RayTrainWorker", "ray::RouterActor", "ray::ImplicitFunc", "ray::Broker"
"""How Ray names the processes of a pool's worker, a router, a trial and the broker."""


class Nodes:
    """A head, and other nodes on loopback addresses of their own, so that drivers are the head's.

    This process never connects to it.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self._cluster = Cluster(
            initialize_head=True,
            connect=False,
            shutdown_at_exit=False,
            head_node_args={"include_dashboard": False, **_small(head)},
        )
        self.address: str = self._cluster.address
        self.head: Any = self._cluster.head_node
        self._count = 1
        self.extra: dict[str, str] = {}
        """Variables of drivers beside the usual ones."""
        self._drivers: list[Started] = []

    def add(self, **resources: Any) -> Any:
        self._count += 1
        address = f"127.0.0.{self._count}"
        return self._cluster.add_node(wait=False, node_ip_address=address, **_small(resources))

    def others(self) -> list[Any]:
        """All nodes but the head."""
        return list(self._cluster.worker_nodes)

    def remove(self, node: Any) -> None:
        """As a machine that loses power: its raylet and all of its processes at once."""
        raylet = raylet_of(node)
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)

    def lose_head(self) -> None:
        """All of the head's processes at once."""
        workers = _alive(self.head)
        for process in [p.process for started in self.head.all_processes.values() for p in started]:
            process.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HAPS_"))}
        return kept | {
            "RAY_ADDRESS": self.address, "RAY_TMPDIR": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT / "tests"), **self.extra,
        }  # fmt: skip

    def start(self, log: Path, *command: object) -> Started:
        """A driver: Python with these arguments, on this cluster; what it prints goes to `log`. It ends with it."""
        self._drivers.append(Started([sys.executable, *command], self.environment(), log, log.parent))
        return self._drivers[-1]

    def end(self) -> None:
        for driver in self._drivers:
            driver.kill()
        for node in [*self._cluster.worker_nodes, self.head]:
            for process in _alive(node):
                process.kill()
        self._cluster.shutdown()


def _small(resources: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_cpus": 0, "num_gpus": 0, "object_store_memory": 100_000_000, **resources}


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _alive(node: Any) -> list[psutil.Process]:
    """What the node's raylet started."""
    try:
        return raylet_of(node).children(recursive=True)
    except (KeyError, psutil.NoSuchProcess):
        return []


def processes(node: Any, title: str) -> list[int]:
    """The ids of a node's processes whose title begins so."""
    found = []
    for process in _alive(node):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)


@contextmanager
def cluster(**head: float) -> Iterator[Nodes]:
    """A cluster in a folder of its own."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Nodes(folder, head)
        try:
            yield nodes
        finally:
            nodes.end()


class Sweep:
    """A small sweep over the embedded candidates in float64, whose driver is a process of its own."""

    def __init__(self, nodes: Nodes, folder: Path, steps: int, sources: Any = None, **changes: Any) -> None:
        self.nodes, self.steps, self.log = nodes, steps, folder / "printed.log"
        self.seen: dict[Any, set[int]] = {}
        self.folder = folder / "runs" / "faulty"
        self.study = folder / "study.yaml"
        profile = {**PROFILE, **changes}
        (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
        self.study.write_text(yaml.safe_dump(described(steps, folder / "profile.yaml", sources)))
        self.driver = self._haps("sweep", self.study, "--name", "faulty")

    def resume(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.driver = self._haps("resume", "faulty")

    def _haps(self, *arguments: object) -> Started:
        runs = self.folder.parent
        return self.nodes.start(self.log, "-m", "haps_search.cli.main", *arguments, "--runs", runs)

    def printed(self) -> str:
        return self.log.read_text()

    def records(self) -> list[Record]:
        path = trial_folder(self.folder, 0) / "metrics.jsonl"
        return read_records(path) if path.exists() else []

    def wait_for(self, event: Callable[[], bool], otherwise: str, every_s: float = 0.02) -> float:
        """While the driver lives, prints and records; how many seconds it took."""

        def said() -> str:
            return f"{otherwise}\n{self.printed()[-3000:]}"

        return wait_for(event, said, self.driver, growth(self.folder, self.log), every_s)

    def reached(self, step: int) -> None:
        self.wait_for(lambda: len(self.records()) >= step, f"step {step} never came")

    def ended(self) -> float:
        """Wait until the driver ends by itself, well or not; how many seconds it took."""
        began = time.monotonic()
        self.driver.ended(growth(self.folder, self.log))
        return time.monotonic() - began

    def after(self, fault: Callable[[], None]) -> Loss:
        """Inject a fault; what it took until the next step was recorded, and how many steps had to be taken again."""

        def written() -> tuple[Path, int]:
            path = trial_folder(self.folder, 0) / "metrics.jsonl"
            return path, path.stat().st_mtime_ns

        fault()
        before, last = len(self.records()), written()
        seen = [before]

        def next_step() -> bool:
            seen.append(len(self.records()))
            return written() != last and seen[-1] > min(seen)

        seconds = self.wait_for(next_step, "no step after the fault")
        self._look()
        return Loss(before - min(seen), seconds)

    def _look(self) -> None:
        """Remember the workers of every node that is there."""
        for node in self.nodes.others():
            self.seen.setdefault(node, set()).update(processes(node, WORKER))

    def end(self) -> str:
        """Wait for a good end, and remember who worked until then; what the driver printed."""

        def ended() -> bool:
            self._look()
            return self.driver.poll() is not None

        self.wait_for(ended, "the sweep goes on for ever", every_s=0.1)
        assert self.driver.poll() == 0, self.printed()[-3000:]
        return self.printed()

    def kill(self) -> None:
        self.driver.kill()


def measured(line: str) -> None:
    """What a fault cost, for `pytest -s`."""
    sys.stdout.write(f"\n{line}\n")


class Loss:
    def __init__(self, steps: int, seconds: float) -> None:
        self.steps, self.seconds = steps, seconds

    def __str__(self) -> str:
        return f"{self.steps} steps lost, next step after {self.seconds:.1f} s"


PROFILE: dict[str, Any] = {
    "name": "nodes",
    "candidate": {"cpus": 0, "gpus": 1},
    "router": {"cpus": 1},
    "trial": {"cpus": 0.5},
    "leases": {"deadline_s": 60},
    "worker_start_timeout_s": 900,
    "health_check_interval_s": 1,
}
CHECKPOINT_EVERY = 5


def described(steps: int, profile: Path, sources: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The embedded study with two candidates, small and exact; `sources` are other places of them."""
    study: dict[str, Any] = yaml.safe_load((ROOT / "search_spaces" / "skills.yaml").read_text())
    experiment = study["experiment"]
    experiment["candidates"] = experiment["candidates"][:2]
    for candidate in experiment["candidates"]:
        candidate["source"] = (sources or {}).get(candidate["name"], candidate["source"])
    for part in (*experiment["candidates"], experiment["routing"]["backbone"]):
        part["dtype"] = "float64"
    experiment["task"]["sizes"] = {"train": 64, "validation": 24, "test": 24}
    experiment["run"] |= {
        "steps": steps, "questions_per_step": 8, "episodes_per_question": 2,
        "checkpoint_every": CHECKPOINT_EVERY, "validation": {"every": 200, "questions": 8},
    }  # fmt: skip
    experiment["engine"]["profile"] = str(profile)
    study["space"] = {"learning.learning_rate.low": {"type": "choice", "values": [3.0e-4]}}
    study["sweep"] |= {"trials": 1, "concurrency": 1, "scheduler": {"type": "none"}, "comparison": False}
    return study | {"tracking": {"mlflow": False}}


TIMES = {"step_seconds", "rollout_seconds", "run_seconds", "tokens_per_second"}


def assert_undisturbed(sweep: Sweep, folder: Path) -> None:
    """Every step once, and equal to the same run in one process that nothing disturbed."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    (trial,) = Journal(sweep.folder).trials()
    assert trial.state == "finished"
    experiment = experiment_of(Journal(sweep.folder).study(), trial)
    task = build_task(experiment.task)
    asyncio.run(run(LocalEngine.build(experiment, task), task, experiment, RunFolder(folder, experiment)))
    expected, found = read_records(folder / "metrics.jsonl"), sweep.records()
    assert [r.step for r in found] == [r.step for r in expected] == list(range(1, sweep.steps + 1))
    for one, other in zip(found, expected, strict=True):
        values = {name: value for name, value in other.metrics.items() if name not in TIMES}
        assert {name: one.metrics[name] for name in values} == pytest.approx(values, rel=1e-9, abs=1e-10)
