"""Endpoints on the pool: workers that hold nothing and share a CPU, the same numbers, and a key that nobody sees."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from endpoints import Body, Reply, Stub, completion, endpoint, serving
from experiments import tiny_experiment
from patience import growth
from processes import Started

from haps_search.config.run import Experiment
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.engines.local import LocalEngine
from haps_search.errors import CandidateError
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import Engine
from haps_search.search.loop import run
from haps_search.tasks.build import build_task

pytestmark = pytest.mark.ray
KEY = "sk-sentinel-9876543210"
TIMES = {"step_seconds", "rollout_seconds", "run_seconds", "tokens_per_second"}


def echo(body: Body) -> Reply:
    """An answer that follows from the request, as that of a server with seeds would."""
    text = body["messages"][-1]["content"]
    return completion(text[::-1] if body["seed"] % 2 else text, len(text), 2)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(usual=echo)) as server:
        yield server


def played(engine: Engine, experiment: Experiment, folder: Path) -> list[Any]:
    asyncio.run(run(engine, build_task(experiment.task), experiment, RunFolder(folder, experiment)))
    return [{k: v for k, v in r.metrics.items() if k not in TIMES} for r in read_records(folder / "metrics.jsonl")]


@pytest.mark.slow
def test_a_mixed_pool_is_the_same_on_both_engines_and_endpoints_take_no_cpu_of_others(
    stub: Stub, tiny_lms: dict[str, Path], tmp_path: Path, on_ray: Any
) -> None:
    own = tiny_experiment(tiny_lms).candidates[0].model_dump(mode="json")
    far = [endpoint(stub.url, f"far{i}", price={"read": 1.0, "written": 2.0}) for i in range(2)]
    experiment = tiny_experiment(tiny_lms, candidates=[own, *far], run__steps=2, run__episodes_per_question=6)
    task = build_task(experiment.task)
    local = played(LocalEngine.build(experiment, task), experiment, tmp_path / "local")
    free = ray.available_resources()["CPU"]
    with on_ray(experiment, leases={"deadline_s": 300}) as live:
        engine = asyncio.run(RayEngine.start(experiment, live.profile, live.broker))
        apart = played(engine, experiment, tmp_path / "ray")
        taken = free - ray.available_resources()["CPU"]
    assert taken < 0.25 * 3  # the router, one LLM, and two endpoints that ask for 0.05 each
    assert local[-1]["cost"] > 0
    for one, other in zip(local, apart, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-10)


@pytest.mark.slow
def test_a_node_without_the_key_says_which_variable_it_misses(
    stub: Stub, tiny_lms: dict[str, Path], on_ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAPS_TEST_FAR_KEY", KEY)  # here, and not where Ray was started before
    far = endpoint(stub.url, api_key_env="HAPS_TEST_FAR_KEY")
    experiment = tiny_experiment(tiny_lms, candidates=[far], routing__low_level={"type": "none"})
    with (
        pytest.raises(CandidateError, match=r"HAPS_TEST_FAR_KEY .* is not set here"),
        on_ray(experiment, leases={"deadline_s": 300}) as live,
    ):
        live.wait_for_candidates()
    assert stub.bodies == []


@pytest.mark.slow
def test_a_table_is_collected_by_workers_without_torch_and_the_key_is_nowhere(
    tmp_path: Path, short_folder: Path, haps: Callable[..., Started]
) -> None:
    seen: list[str] = []

    def watched(body: Body) -> Reply:
        if not seen:  # while all processes are there
            seen.extend(_command_lines())
        return echo(body)

    with serving(Stub(usual=watched)) as server:
        described = {
            "name": "far",
            "experiment": {
                "task": {"type": "skills"},
                "candidates": [
                    endpoint(server.url, name, api_key_env="FAR_KEY", price={"read": 1.0, "written": 2.0})
                    for name in ("one", "two")
                ],
                "routing": {"low_level": {"type": "none"}},
                "engine": {"type": "ray", "profile": str(tmp_path / "profile.yaml")},
            },
            "tracking": {"mlflow": False},
        }
        (tmp_path / "profile.yaml").write_text(yaml.safe_dump({"name": "here", "logical_cpus": 2}))
        (tmp_path / "far.yaml").write_text(yaml.safe_dump(described))
        arguments = ("collect", "far.yaml", "-o", "table.parquet", "--limit", "6", "--chunk", "3")
        process = haps(*arguments, folder=tmp_path, FAR_KEY=KEY)
        assert process.ended(growth(tmp_path)) == 0, process.printed()
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    assert len(rows) == len(server.bodies) == 12
    assert {h["authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    assert any("RayTrainWorker" in line for line in seen)
    assert not any(KEY in line for line in seen)
    assert KEY not in process.printed()
    for folder in (tmp_path, short_folder):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                assert KEY.encode() not in file.read_bytes(), file


def _command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_the_candidate_needs_no_torch() -> None:
    code = "import haps_search.candidates.endpoint, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
