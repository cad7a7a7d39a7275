"""The loop cannot tell the engines apart, and a lost worker costs nothing but its batch."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from dense_task import DenseTask
from dialogue_task import DIALOGUE, DialogueTask
from experiments import tiny_experiment
from patience import Patience, growth, wait_for
from taught_task import TaughtTask

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.engines.cluster.pool import Pool
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError, StaleUpdate
from haps_search.records.jsonl import Record, read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import Engine
from haps_search.search.loop import run
from haps_search.tasks.task import Task
from haps_search.types import Rollouts, Snapshot

pytestmark = pytest.mark.ray
TIMES = {"step_seconds", "rollout_seconds", "run_seconds", "tokens_per_second"}


def played(
    engine: Engine, experiment: Experiment, folder: Path, task: Task | None = None
) -> tuple[list[Any], list[Any], Snapshot]:
    """Metrics of every step, the texts kept, and the router's weights."""

    async def all_steps() -> Snapshot:
        await run(engine, task or DenseTask(), experiment, RunFolder(folder, experiment))
        return await engine.snapshot()

    snapshot = asyncio.run(all_steps())
    metrics = [{k: v for k, v in r.metrics.items() if k not in TIMES} for r in read_records(folder / "metrics.jsonl")]
    return metrics, (folder / "examples.jsonl").read_text().splitlines(), snapshot


def same(one: tuple[list[Any], list[Any], Snapshot], other: tuple[list[Any], list[Any], Snapshot]) -> None:
    assert one[1] == other[1]
    for a, b in zip(one[0], other[0], strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-10)
    assert set(one[2].tensors) == set(other[2].tensors)
    for name, tensor in one[2].tensors.items():
        # Adam divides by the gradient's size: where that is rounding, so is the step, and how prompts lie in a batch
        # is what rounds.
        torch.testing.assert_close(
            tensor, other[2].tensors[name], rtol=1e-7, atol=2e-8, msg=lambda said, name=name: f"{name}: {said}"
        )


def records_in(folder: Path) -> list[Record]:
    file = folder / "metrics.jsonl"
    return read_records(file) if file.exists() else []


async def until(event: Callable[[], bool], running: asyncio.Task[None], folder: Path) -> None:
    patience = Patience(growth(folder))
    while not event():
        if running.done():
            await running
        patience.spend("the run stands still")
        await asyncio.sleep(0.02)


def scraped(enough: Callable[[list[str]], bool]) -> list[str]:
    """What this node's Ray shows to Prometheus of haps_search; a process tells every now and then."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(address, timeout=30) as response:
            lines = [line for line in response.read().decode().splitlines() if line.startswith("ray_haps_")]
        if enough(lines):
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(1)


def told(lines: list[str], metric: str, *tags: str) -> float:
    """The sum of a metric's series that have these tags."""
    chosen = [line for line in lines if line.startswith(metric + "{") and all(tag in line for tag in tags)]
    return sum(float(line.rpartition(" ")[2]) for line in chosen)


def started(live: Any, experiment: Experiment) -> RayEngine:
    return asyncio.run(RayEngine.start(experiment, live.profile, live.broker))


def ready(live: Any) -> None:
    """Between a test's phases pytest goes through all loggers, which a thread of Train's may not add to meanwhile."""
    live.wait_for_candidates()


def apart(live: Any, experiment: Experiment, folder: Path, task: Task | None = None) -> Any:
    """Played on Ray."""
    engine = started(live, experiment)
    found = played(engine, experiment, folder, task)
    asyncio.run(engine.close())
    return found


@pytest.fixture(scope="module")
def local(tiny_lms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Any]:
    """An experiment, and how it is played in one process."""
    experiment = tiny_experiment(tiny_lms, learning__kl_weight=0.1)
    found = played(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path_factory.mktemp("local"))
    assert len(found[0]) == 6
    assert any(m["reward_spread"] > 0 for m in found[0])
    return experiment, found


class TestAWorkerPerCandidate:
    """Logical GPUs: Ray counts them, nothing computes on them, and no process group asks for NCCL."""

    @pytest.fixture(scope="class")
    def live(self, tiny_lms: dict[str, Path], on_ray: Any) -> Iterator[Any]:
        resources = {"candidate": {"cpus": 0.25, "gpus": 1}, "router": {"cpus": 0.25, "gpus": 0.5}}
        with on_ray(tiny_experiment(tiny_lms), **resources) as live:
            ready(live)
            yield live

    def test_each_candidate_holds_a_gpu_of_its_own_and_errors_cross_as_themselves(
        self, tiny_lms: dict[str, Path], tmp_path: Path, live: Any
    ) -> None:
        experiment = tiny_experiment(tiny_lms, run__steps=1)
        engine = started(live, experiment)
        metrics, _, _ = played(engine, experiment, tmp_path / "gpus")
        assert metrics[0]["completion_tokens"] > 0
        assert ray.available_resources()["GPU"] == pytest.approx(0.5)
        with pytest.raises(StaleUpdate, match="version 7"):
            asyncio.run(engine.update([], Rollouts(7, (), (), {})))
        asyncio.run(engine.close())

    def test_local_is_ray(self, local: tuple[Experiment, Any], tmp_path: Path, live: Any) -> None:
        experiment, wanted = local
        same(wanted, apart(live, experiment, tmp_path / "one"))

    def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_counted_twice(
        self, tiny_lms: dict[str, Path], tmp_path: Path, live: Any
    ) -> None:
        experiment = tiny_experiment(tiny_lms, run__steps=12, run__checkpoint_every=12)
        undisturbed = played(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path / "local")
        engine = started(live, experiment)
        before = ray.get(live.broker.status.remote())["workers"]
        victim = next(w for w in before.values() if w["candidate"] == "qwen2")
        folder = tmp_path / "killed"

        async def killed_on_the_way() -> None:
            running = asyncio.create_task(run(engine, DenseTask(), experiment, RunFolder(folder, experiment)))
            await until(lambda: len(records_in(folder)) >= 3, running, folder)
            os.kill(victim["pid"], signal.SIGKILL)
            await until(running.done, running, folder)
            await running

        asyncio.run(killed_on_the_way())
        after = ray.get(live.broker.status.remote())["workers"]
        snapshot = asyncio.run(engine.snapshot())
        asyncio.run(engine.close())
        metrics = [
            {k: v for k, v in r.metrics.items() if k not in TIMES} for r in read_records(folder / "metrics.jsonl")
        ]
        same(undisturbed, (metrics, (folder / "examples.jsonl").read_text().splitlines(), snapshot))
        survivors = {k: w["pid"] for k, w in before.items() if w["candidate"] != "qwen2"}
        assert {k: after[k]["pid"] for k in survivors} == survivors
        replaced = next(w for w in after.values() if w["candidate"] == "qwen2")
        assert replaced["pid"] != victim["pid"]
        assert replaced["registrations"] == 2


class TestSeveralWorkers:
    @pytest.fixture(scope="class")
    def live(self, tiny_lms: dict[str, Path], on_ray: Any) -> Iterator[Any]:
        # Other resources make another Train run; it is one pool all the same.
        how = {"candidates": {"qwen2": {"cpus": 0.5, "gpus": 0.5}}, "replicas": {"llama": 2}}
        with on_ray(tiny_experiment(tiny_lms), **how) as live:
            ready(live)
            yield live

    def test_local_is_ray(self, local: tuple[Experiment, Any], tmp_path: Path, live: Any) -> None:
        experiment, wanted = local
        same(wanted, apart(live, experiment, tmp_path / "two"))
        workers = ray.get(live.broker.status.remote())["workers"]
        assert sorted(w["candidate"] for w in workers.values()) == ["llama", "llama", "qwen2"]
        assert ray.cluster_resources()["GPU"] - ray.available_resources()["GPU"] == 0.5

    def test_references_are_the_same_on_both_engines_and_read_once_by_all(
        self, tiny_lms: dict[str, Path], tmp_path: Path, live: Any
    ) -> None:
        task, lows = (
            TaughtTask(),
            ({"type": "static"}, {"type": "generated", "residual_of": "static"}, {"type": "bank"}),
        )
        taught = [
            tiny_experiment(tiny_lms, learning__signal="references", routing__low_level={**low, "init": "xavier"})
            for low in lows
        ]
        # And rewards from there, held to where references led.
        begins = {"run__warm_start": str(tmp_path / "local-0"), "run__warm_start_low": True, "run__steps": 3}
        held = {"learning__kl_weight": 0.5, "learning__kl_to": "start", "routing__low_level": {"type": "static"}}
        taught.append(tiny_experiment(tiny_lms, **begins, **held))
        wanted = [played(LocalEngine.build(e, task), e, tmp_path / f"local-{i}", task) for i, e in enumerate(taught)]
        for number, (experiment, one) in enumerate(zip(taught, wanted, strict=True)):
            same(one, apart(live, experiment, tmp_path / f"ray-{number}", task))
        for metrics, _, _ in wanted[:3]:
            assert metrics[-1]["reference_log_likelihood"] > metrics[0]["reference_log_likelihood"]


@pytest.mark.slow
def test_two_roles_are_the_same_on_both_engines(tiny_lms: dict[str, Path], tmp_path: Path, on_ray: Any) -> None:
    experiment = tiny_experiment(tiny_lms, task=DIALOGUE, learning__kl_weight=0.1, run__steps=3)
    task = DialogueTask(experiment.task)  # type: ignore[arg-type]
    local = played(LocalEngine.build(experiment, task), experiment, tmp_path / "local", task)
    with on_ray(experiment, replicas={"llama": 1, "qwen2": 2}) as live:
        found = played(started(live, experiment), experiment, tmp_path / "ray", task)
        drawn = sum(m["completion_tokens"] for m in found[0])  # and what validation draws
        lines = scraped(lambda lines: told(lines, "ray_haps_tokens_total", 'kind="sample"') >= drawn)
    for name in ("llama", "qwen2"):
        assert told(lines, "ray_haps_tokens_total", f'candidate="{name}"', 'kind="score"') > 0
        assert told(lines, "ray_haps_workers", f'candidate="{name}"') == {"llama": 1, "qwen2": 2}[name]
    assert told(lines, "ray_haps_leases_total") > 0
    assert any(m["reward_spread"] > 0 for m in local[0])
    assert {"student", "teacher"} <= {name.split("/")[1] for name in local[0][0] if name.startswith("parse_failure_")}
    same(local, found)


def test_a_profile_beyond_the_cluster_fails_at_once_with_what_is_missing(
    tiny_lms: dict[str, Path], on_ray: Any
) -> None:
    experiment = tiny_experiment(tiny_lms)
    with (
        pytest.raises(ConfigError, match=r"needs 8\.5 GPU .* this cluster has 3"),
        on_ray(experiment, candidate={"cpus": 0.25, "gpus": 4}, router={"cpus": 0.25, "gpus": 0.5}),
    ):
        pass


def test_a_pool_that_waits_for_room_without_end_is_ended(running_ray: None, tmp_path: Path) -> None:
    """Train's controller asks for a node that never comes, also when nobody needs the pool any more."""
    described = {"name": "wide", "candidate": {"cpus": 1000}, "worker_start_timeout_s": 900}
    candidate = CandidateConfig.model_validate({"name": "adder", "source": {"type": "zoo", "name": "adder"}})
    pool = Pool([candidate], ClusterProfile.model_validate(described), "nobody", "haps-wide")
    pool.start(tmp_path)
    assert pool.join(10) == ["pool-0"]
    wait_for(lambda: pool.give_up() or not pool.join(1), "it waits for its room")
