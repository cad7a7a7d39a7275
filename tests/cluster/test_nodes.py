"""Nodes that vanish, join, or lack a model, under a sweep of the command line on several logical nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nodes as module
import pytest
import yaml
from nodes import WORKER, Nodes, Sweep, assert_undisturbed, cluster, measured, processes
from patience import growth

from haps_search.candidates.zoo import zoo_path
from haps_search.config.engines import ClusterProfile
from haps_search.config.load import load_study, parse_nodes
from haps_search.engines.placement.placement import needs_of, plan

pytestmark = pytest.mark.ray
ROOM_S = 120
"""Until a sweep without room gives up; its workers have to be there sooner at its start, also on a slow machine."""
SEATED = Path(module.__file__).with_name("seated.py")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """The head has room for routers only."""
    with cluster(num_cpus=4) as made:
        yield made


@pytest.mark.slow
def test_a_lost_nodes_candidate_comes_back_on_another_and_the_others_stay(nodes: Nodes, tmp_path: Path) -> None:
    made = [nodes.add(num_gpus=1) for _ in range(3)]
    sweep = Sweep(nodes, tmp_path, steps=20)
    try:
        sweep.reached(4)
        victim, other = (node for node in made if processes(node, WORKER))
        (spare,) = (node for node in made if node not in (victim, other))
        survivors = processes(other, WORKER)
        loss = sweep.after(lambda: nodes.remove(victim))
        measured(f"node removed, another has room: {loss}")
        sweep.end()
    finally:
        sweep.kill()
    assert loss.steps == 0
    assert len(survivors) == 1
    assert sweep.seen[other] == {*survivors}, "a worker of another node was started again"
    assert sweep.seen[spare]
    assert_undisturbed(sweep, tmp_path / "alone")


@pytest.mark.slow
def test_without_room_the_sweep_says_what_it_waits_for_and_goes_on_with_a_new_node(
    nodes: Nodes, tmp_path: Path
) -> None:
    stays, goes = nodes.add(num_gpus=1), nodes.add(num_gpus=1)
    sweep = Sweep(nodes, tmp_path, steps=20, worker_start_timeout_s=600)
    try:
        sweep.reached(4)
        survivors = processes(stays, WORKER)
        nodes.remove(goes)
        sweep.wait_for(lambda: "waiting for a worker of " in sweep.printed(), "nobody said why it waits")
        assert "it needs 1 GPUs and 0 CPUs" in sweep.printed()
        loss = sweep.after(lambda: nodes.add(num_gpus=1))
        measured(f"node removed, another joined: {loss} since it joined")
        sweep.end()
    finally:
        sweep.kill()
    assert loss.steps == 0
    assert sweep.seen[stays] == {*survivors}
    assert_undisturbed(sweep, tmp_path / "alone")


@pytest.mark.slow
def test_room_that_never_comes_ends_the_sweep_with_the_way_out(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add(num_gpus=1)
    goes = nodes.add(num_gpus=1)
    sweep = Sweep(nodes, tmp_path, steps=20, worker_start_timeout_s=ROOM_S, retries={"within_s": 0})
    try:
        sweep.reached(4)
        nodes.remove(goes)
        seconds = sweep.ended()
        measured(f"node removed, no room: ended after {seconds:.0f} s of worker_start_timeout_s {ROOM_S}")
        assert sweep.driver.poll() == 75
        assert f"was heard of for {ROOM_S} s (worker_start_timeout_s)" in sweep.printed()
        assert "then `haps resume faulty`" in sweep.printed()
        nodes.add(num_gpus=1)
        sweep.resume(nodes)
        sweep.end()
    finally:
        sweep.kill()
    assert_undisturbed(sweep, tmp_path / "alone")


@pytest.mark.slow
def test_a_candidate_that_a_node_lacks_is_loaded_on_another_and_else_named(nodes: Nodes, tmp_path: Path) -> None:
    """A node without network whose hub cache lacks the model; the driver's has it."""
    full, empty = ({"HF_HOME": str(tmp_path / name), "HF_HUB_OFFLINE": "1"} for name in ("full", "empty"))
    _fill_hub_cache(tmp_path / "full")
    nodes.add(num_gpus=2, env_vars=empty)
    nodes.extra = full
    hub = {"type": "hub", "repo": "tiny/adder"}
    sweep = Sweep(nodes, tmp_path, steps=8, sources={"adder": hub}, worker_start_timeout_s=600)
    try:
        seconds = sweep.ended()
        measured(f"candidate does not load on the only node: ended {seconds:.0f} s after the start")
        assert sweep.driver.poll() == 1
        assert "node 127.0.0.2: `adder` from hub `tiny/adder` at `main`: it is not in the local hub" in sweep.printed()
        assert "no other node has room for it" in sweep.printed()
        nodes.add(num_gpus=1, env_vars=full)
        sweep.resume(nodes)
        sweep.end()
    finally:
        sweep.kill()
    assert "loading it on another node" in (sweep.folder / "logs" / "driver.log").read_text()


def _fill_hub_cache(home: Path) -> None:
    """As a download leaves it."""
    repository, commit = home / "hub" / "models--tiny--adder", "0" * 40
    shutil.copytree(zoo_path("adder"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [{}, {"adder": 2, "reverser": 2}])
def test_workers_sit_where_the_plan_says(nodes: Nodes, tmp_path: Path, replicas: dict[str, int]) -> None:
    """But for which of two equal nodes is called the first."""
    nodes.add(num_gpus=3, num_cpus=1)
    nodes.add(num_gpus=3, num_cpus=1)
    profile = {**module.PROFILE, "replicas": replicas}
    file, out = tmp_path / "profile.yaml", tmp_path / "seats.json"
    file.write_text(yaml.safe_dump(profile))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(module.described(1, file)))
    driver = nodes.start(tmp_path / "printed.log", SEATED, tmp_path / "study.yaml", out)
    assert driver.ended(growth(driver.log)) == 0, driver.printed()[-3000:]
    real: dict[str, list[str]] = json.loads(out.read_text())

    experiment = load_study(str(tmp_path / "study.yaml"), []).experiment
    machines = parse_nodes(["count=1,cpus=4", "count=2,cpus=1,gpus=3"])
    described = ClusterProfile.model_validate(profile).model_copy(update={"nodes": machines})
    planned: dict[int, list[str]] = {}
    for row in plan(experiment, 1, described, needs_of(experiment, 64)).rows:
        if row.need.halves:
            planned.setdefault(row.seat.node, []).append(row.seat.who.partition(" ")[0])
    assert sorted(map(sorted, real.values())) == sorted(map(sorted, planned.values()))
