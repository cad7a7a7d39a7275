"""A run that was trained here, used on a cluster's pool: the same rewards, texts and adapters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments import tiny_experiment
from safetensors.numpy import load_file

from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.tasks.build import build_task
from haps_search.verbs import hosting
from haps_search.verbs.evaluate import Evaluation, evaluate
from haps_search.verbs.loaded_run import load_run

pytestmark = pytest.mark.ray
QUESTIONS = ["[y] sort plum=", "[x] 3+4="]
ON_GPUS = {
    "name": "gpus", "candidate": {"cpus": 0.25, "gpus": 0.5}, "candidates": {"llama": {"cpus": 0.25, "gpus": 1}},
    "router": {"cpus": 0.25, "gpus": 0.5}, "trial": {"cpus": 0}, "worker_start_timeout_s": 900,
    "nodes": [{"cpus": 4, "gpus": 3, "gpu_memory_gb": 10, "memory_gb": 100}],
}  # fmt: skip


@pytest.mark.slow
def test_a_pool_with_gpus_gives_what_this_process_gives(
    tiny_lms: dict[str, Path], tmp_path: Path, running_ray: None
) -> None:
    sizes = {"train": 16, "validation": 6, "test": 8}
    validation = {"every": 2, "questions": 6, "choosing_share": 1.0}
    experiment = tiny_experiment(tiny_lms, task__sizes=sizes, run__steps=2, run__validation=validation)
    task = build_task(experiment.task)
    asyncio.run(run(LocalEngine.build(experiment, task), task, experiment, RunFolder(tmp_path / "own", experiment)))
    profile = tmp_path / "gpus.yaml"
    profile.write_text(yaml.safe_dump(ON_GPUS))

    here, there = (evaluate("own", "test", again=True, runs=tmp_path, profile=p) for p in (None, str(profile)))
    assert isinstance(here, Evaluation)
    assert isinstance(there, Evaluation)
    assert there.measured == here.measured
    assert (there.measured["validation"].count, there.measured["test"].count) == (6, 8)

    local = load_run("own", tmp_path)
    with load_run("own", tmp_path, str(profile)) as remote:
        for question in QUESTIONS:
            one, other = local.ask(question), remote.ask(question)
            assert one.adapted == other.adapted
            assert one.frozen == other.frozen
            assert one.decision.assignment == other.decision.assignment
            assert [f.norm for f in one.adapters] == pytest.approx([f.norm for f in other.adapters])
        assert (
            local.export(QUESTIONS, tmp_path / "a").adapters == remote.export(QUESTIONS, tmp_path / "b").adapters == 4
        )
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        one_file, other_file = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
        assert all((one_file[name] == other_file[name]).all() for name in one_file | other_file)


def test_what_does_not_fit_is_refused_with_numbers_and_a_way_out(
    tiny_lms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny_experiment(tiny_lms, run__steps=2, run__validation={"every": 2, "questions": 6})
    monkeypatch.setattr(hosting, "_memory", lambda _: ("this machine", 1000))
    said = r"the weights of 2 candidates and the router need .* this machine has 0.0.*--profile"
    with pytest.raises(ConfigError, match=said), hosting.hosted(tmp_path, experiment):
        pass
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump({**ON_GPUS, "nodes": [{"cpus": 4, "gpus": 1, "memory_gb": 100}]}))
    RunFolder(tmp_path, experiment).save(2, _snapshot(experiment), {"step": 2}, best=True)
    with (
        pytest.raises(ConfigError, match="does not fit profile gpus"),
        hosting.hosted(tmp_path, experiment, str(small)),
    ):
        pass


def _snapshot(experiment: Any) -> Any:
    return asyncio.run(LocalEngine.build(experiment, build_task(experiment.task)).snapshot())
