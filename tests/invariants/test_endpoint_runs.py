"""Runs over endpoints: own candidates keep their adapters, nobody scores endpoints, and costs are as servers count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoints import Body, Reply, Stub, completion, endpoint, serving
from experiments import tiny_experiment

from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.tasks.build import build_task
from haps_search.types import Question, ScoreRequest, Scores
from haps_search.verbs.evaluate import evaluate
from haps_search.verbs.loaded_run import Run

PRICE = {"read": 3.0, "written": 5.0}
FEATURES = {"type": "features"}


def fickle(body: Body) -> Reply:
    """Its own counts, which depend on the question; every fifth question is refused."""
    text = body["messages"][-1]["content"]
    if len(text) % 5 == 0:
        return completion(None, len(text), 1, refusal="no")
    return completion(text[::-1], len(text), 2)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(usual=fickle)) as server:
        yield server


class Watched(LocalEngine):
    """Writes down who is scored."""

    scored: list[str]

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        self.scored.append(candidate)
        return await super().score(candidate, requests)


def played(experiment: Experiment, folder: Path) -> tuple[list[Mapping[str, float]], set[str], list[str]]:
    """Metrics of the steps, the names of what learnt, and who was scored."""
    task = build_task(experiment.task)
    engine = Watched.build(experiment, task)
    assert isinstance(engine, Watched)
    engine.scored = []

    async def all_steps() -> set[str]:
        await run(engine, task, experiment, RunFolder(folder, experiment))
        names = set((await engine.snapshot()).tensors)
        await engine.close()
        return names

    names = asyncio.run(all_steps())
    return [r.metrics for r in read_records(folder / "metrics.jsonl")], names, engine.scored


def test_own_candidates_have_adapters_and_endpoints_none(stub: Stub, tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    own = tiny_experiment(tiny_lms).candidates[0].model_dump(mode="json")
    mixed = tiny_experiment(
        tiny_lms, candidates=[own, endpoint(stub.url)], run__steps=3, routing__high_level={"type": "random"}
    )
    metrics, names, scored = played(mixed, tmp_path / "run")
    assert set(scored) == {"llama"}
    assert any("for_llama" in name for name in names)
    assert not any("for_far" in name for name in names)
    assert all(m["share/far"] > 0 and m["share/llama"] > 0 for m in metrics if "share/far" in m)
    assert len(stub.bodies) > 0

    loaded = Run("run", tmp_path / "run", mixed)
    adapters = loaded.loaded.adapters(build_task(mixed.task).questions("validation")[:3])
    assert {name for _, name in adapters} == {"llama"}
    exported = loaded.export(["reverse abc"], tmp_path / "out")
    assert exported.adapters == 1
    assert [p.name for p in (tmp_path / "out" / "line-1").iterdir()] == ["llama"]

    ids = ["..", "../../up", "/root", "a b", "", "x" * 400]
    away = loaded.export([Question(id, "reverse abc", "cba") for id in ids], tmp_path / "ids" / "out")
    assert away.adapters == len(ids)
    assert [p.name for p in (tmp_path / "ids").iterdir()] == ["out"]
    assert len([p for p in (tmp_path / "ids" / "out").iterdir() if p.is_dir()]) == len(ids)
    with pytest.raises(ConfigError, match="'one' twice"):
        loaded.export([Question("one", text, "") for text in ("reverse abc", "reverse abd")], tmp_path / "twice")


def test_an_architecture_only_run_costs_what_the_servers_counted(
    stub: Stub, tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    pool = [endpoint(stub.url, name, price=PRICE, model=name) for name in ("one", "two")]
    experiment = tiny_experiment(
        tiny_lms, candidates=pool, run__steps=3, run__validation={"every": 3, "questions": 4},
        routing={"prompt": "question", "backbone": FEATURES, "low_level": {"type": "none"}},
    )  # fmt: skip
    metrics, _, scored = played(experiment, tmp_path / "run")
    assert scored == []
    sampled = [body for body in stub.bodies if body["temperature"] > 0]
    assert len(sampled) == 3 * 4 * 4
    counts = [json.loads(fickle(body).body) for body in sampled]
    paid = sum(3 * c["usage"]["prompt_tokens"] + 5 * c["usage"]["completion_tokens"] for c in counts) / 1e6
    steps = [m for m in metrics if "cost" in m]
    assert sum(m["cost"] for m in steps) * 16 == pytest.approx(paid)
    assert sum(m["refusals"] for m in steps) == sum(c["choices"][0]["message"]["refusal"] is not None for c in counts)
    assert all("log_likelihood" not in m for m in steps)  # nobody knows it

    before = len(stub.bodies)
    loaded = Run("run", tmp_path / "run", experiment)
    answer = loaded.ask("reverse abcd")
    assert answer.adapted == answer.frozen
    assert answer.adapters == ()
    assert len(stub.bodies) == before + 1  # not paid twice for the same
    measured: Any = evaluate(str(tmp_path / "run"), runs=tmp_path)
    assert measured.measured["validation"].count > 0
    assert all(body["temperature"] == 0 for body in stub.bodies[before:])
