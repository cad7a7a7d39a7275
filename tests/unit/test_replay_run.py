"""Whole runs on made tables: what can be learnt is learnt, a kill changes nothing, the router can be taken along."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from replays import MODELS, replay_experiment, row, skilled, write_table

from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import CheckpointError, ConfigError
from haps_search.learning.utility import with_cost_weight
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run, validated
from haps_search.search.outcome_step import chances
from haps_search.search.stages import RunResult
from haps_search.search.warm_start import warm_source, warm_start
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import choosing


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path / "cache"))


def trained(experiment: Experiment, folder: Path, until: int | None = None) -> tuple[LocalEngine, RunResult | None]:
    """The engine at the end of a run; killed after the step `until`."""
    task = build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)

    async def go() -> RunResult:
        return await run(engine, task, experiment, RunFolder(folder, experiment), stop)

    def stop(step: int, metrics: Mapping[str, float]) -> None:
        if until is not None and step >= until:
            raise KeyboardInterrupt

    try:
        return engine, asyncio.run(go())
    except KeyboardInterrupt:
        return engine, None


def test_metrics_are_recorded_now_and_then_and_where_it_was_validated(tmp_path: Path) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl"), run__record_every=8)
    _, result = trained(experiment, tmp_path / "run")
    recorded = [record.step for record in read_records(tmp_path / "run" / "metrics.jsonl")]
    assert recorded == sorted({*range(8, 61, 8), 20, 40, 60})
    assert result is not None
    assert "validation_reward" in result.metrics


@pytest.mark.parametrize("loss", ["expected_reward", "soft_targets", "pairwise", "contrastive"])
def test_what_the_words_say_is_learnt(tmp_path: Path, loss: str) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl"), learning__outcome_loss={"type": loss})
    _, result = trained(experiment, tmp_path / "run")
    assert result is not None
    assert result.metrics["validation_reward"] >= 0.95


def test_it_is_learnt_by_rollouts_too(tmp_path: Path) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl"), learning__signal="rollouts")
    _, result = trained(experiment, tmp_path / "run")
    assert result is not None
    assert result.metrics["validation_reward"] >= 0.95


def test_it_is_learnt_in_spite_of_missing_cells(tmp_path: Path) -> None:
    file, draw = skilled(tmp_path / "whole.jsonl"), np.random.default_rng(0)
    rows = [
        row(q.id, q.text, {m: None if draw.random() < 0.4 else float(r) for m, r in zip(MODELS, paid, strict=True)})
        for q, paid in zip(*_cells(file), strict=True)
    ]
    experiment = replay_experiment(write_table(tmp_path / "gaps.jsonl", rows))
    engine, result = trained(experiment, tmp_path / "run")
    assert result is not None
    whole = build_task(replay_experiment(file).task).questions("test")
    likely = asyncio.run(chances(engine, whole))
    right = [MODELS[k] == MODELS[int(q.id[1:]) % 3] for q, k in zip(whole, likely.argmax(1), strict=True)]
    assert np.mean(right) >= 0.95


def _cells(file: Path) -> tuple[list, list]:  # type: ignore[type-arg]
    table = build_task(replay_experiment(file).task).table  # type: ignore[attr-defined]
    return list(table.questions), table.rewards.tolist()


def test_a_conditioned_router_spends_less_where_cost_weighs_more(tmp_path: Path) -> None:
    file = skilled(tmp_path / "t.jsonl", costs=(0.05, 0.7, 1.0))
    experiment = replay_experiment(
        file, learning__cost_conditioned={"low": 0.01, "high": 5.0}, routing__backbone__hidden=[32], run__steps=200
    )
    engine, result = trained(experiment, tmp_path / "run")
    assert result is not None
    assert result.metrics["validation_reward"] >= 0.9, "at the lowest weight it goes by reward"
    questions = build_task(experiment.task).questions("validation")
    dear = asyncio.run(chances(engine, [with_cost_weight(q, 5.0) for q in questions])).mean(0)
    assert dear[0] > 0.9, "at the highest weight the cheapest takes all"


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """With dropout and drawn weights of cost, whose randomness belongs to the step."""
    experiment = replay_experiment(
        skilled(tmp_path / "t.jsonl", costs=(1, 2, 3)), routing__backbone__dropout=0.3, routing__backbone__hidden=[8],
        learning__cost_conditioned={"low": 0.01, "high": 1.0},
    )  # fmt: skip
    through, first = trained(experiment, tmp_path / "through")
    assert trained(experiment, tmp_path / "killed", until=20)[1] is None
    resumed, second = trained(experiment, tmp_path / "killed")
    assert first is not None
    assert second is not None
    assert first.best_step == second.best_step
    one, other = asyncio.run(through.snapshot()), asyncio.run(resumed.snapshot())
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


def test_validation_is_a_sample_of_a_sorted_table(tmp_path: Path) -> None:
    """Sorted by what the words say, the first 20 questions of the split would all be of one kind."""
    rows = sorted(_lines(skilled(tmp_path / "t.jsonl", 900)), key=lambda line: line["query"])
    file = write_table(tmp_path / "sorted.jsonl", rows)
    experiment = replay_experiment(file, run__steps=1, run__validation={"every": 1, "questions": 20})
    task = build_task(experiment.task)
    first = validated(task, experiment)
    kinds = Counter(int(q.id[1:]) % 3 for q in first)
    assert set(kinds) == {0, 1, 2}
    assert max(kinds.values()) < 14
    again = replay_experiment(file, run__seed=5, run__validation={"every": 1, "questions": 30})
    assert [q.id for q in validated(task, again)][:20] == [q.id for q in first]
    trained(experiment, tmp_path / "run")
    told = [json.loads(line)["question"] for line in (tmp_path / "run" / "examples.jsonl").read_text().splitlines()]
    assert told == [q.id for q in first]


def test_questions_of_a_run_from_before_they_were_drawn_keep_their_order(tiny_lms: Mapping[str, Path]) -> None:
    experiment = tiny_experiment(tiny_lms, run__validation={"every": 1, "questions": 3, "drawn": "first"})
    choose = choosing(DenseTask(), experiment)
    assert choose == [q for q in DenseTask().questions("validation") if q in choose]
    assert validated(DenseTask(), experiment) == choose[:3]


def test_a_run_knows_nothing_of_questions_that_only_others_answered(tmp_path: Path) -> None:
    rows = [{**line, "scores": {**line["scores"], "other": 1.0}} for line in _lines(skilled(tmp_path / "t.jsonl"))]
    for line in rows[::2]:
        line["scores"] = {**dict.fromkeys(MODELS), "other": 1.0}
    experiment = replay_experiment(write_table(tmp_path / "wide.jsonl", rows))
    _, result = trained(experiment, tmp_path / "run")
    assert result is not None
    assert result.metrics["validation_reward"] >= 0.9
    assert all(math.isfinite(value) for value in result.metrics.values())


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_was_fitted_is_stored_once_and_comes_back(tmp_path: Path) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl"))
    trained(experiment, tmp_path / "run")
    stored = sorted((tmp_path / "run" / "checkpoints").glob("step-*/fitted.safetensors"))
    assert len(stored) >= 2
    assert len({file.stat().st_ino for file in stored}) == 1, "every checkpoint holds a copy of its own"
    best = RunFolder(tmp_path / "run", experiment).best()
    assert best is not None
    assert set(best.snapshot.fitted) == {"0.idf", "0.directions"}


def real(tiny_lms: Mapping[str, Path], source: Path, hidden: Sequence[int] = (), **changes: object) -> Experiment:
    """A run on real (tiny) candidates of the same names, with hypernetworks."""
    models = [
        {"name": name, "source": {"type": "path", "path": str(tiny_lms[n])}, "device": "cpu"}
        for name, n in zip(MODELS, ("llama", "qwen2", "mistral"), strict=True)
    ]
    backbone = {"type": "features", "features": [{"type": "tfidf", "buckets": 1024, "dimensions": 16}]}
    backbone |= {"hidden": hidden}
    return tiny_experiment(
        tiny_lms, candidates=models, routing__backbone=backbone, run__warm_start=str(source),
        task__sizes={"train": 8, "validation": 6, "test": 4}, run__steps=1,
        run__validation={"every": 1, "questions": 2}, run__questions_per_step=2, run__episodes_per_question=2,
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize("hidden", [(), (8,)], ids=["linear", "mlp"])
@pytest.mark.parametrize("learning", [{}, {"cost_conditioned": {"low": 0.05, "high": 0.5}, "cost_weight": 0.2}])
def test_a_replayed_router_is_the_start_of_a_run_on_real_candidates(
    tmp_path: Path, tiny_lms: Mapping[str, Path], hidden: Sequence[int], learning: Mapping[str, Any]
) -> None:
    """One that was told what cost weighs decides as at its `cost_weight`: nobody tells it there."""
    source, file = tmp_path / "replayed", skilled(tmp_path / "t.jsonl", costs=(0.1, 0.2, 0.3))
    changes = {f"learning__{name}": value for name, value in learning.items()}
    replayed, _ = trained(replay_experiment(file, routing__backbone__hidden=hidden, **changes), source)
    asked = build_task(replay_experiment(file).task).questions("test")
    experiment = real(tiny_lms, source, hidden)
    task = build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)
    best = RunFolder(source, RunFolder.experiment_of(source)).best()
    assert best is not None
    assert warm_source(experiment, tmp_path / "x") == source
    asyncio.run(warm_start(engine, experiment, tmp_path / "x"))
    asyncio.run(replayed.restore(best.snapshot))
    before, after = (asyncio.run(chances(e, asked)) for e in (replayed, engine))
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert (after.argmax(1) == [int(q.id[1:]) % 3 for q in asked]).mean() >= 0.95
    assert len(engine.all_adapters(asked[:1])) == 3, "the hypernetworks are there, and fresh"
    trained(experiment, tmp_path / "real")


def test_a_router_over_other_features_is_refused(tmp_path: Path, tiny_lms: Mapping[str, Path]) -> None:
    source = tmp_path / "replayed"
    trained(replay_experiment(skilled(tmp_path / "t.jsonl"), run__steps=20), source)
    wide = {"type": "features", "features": [{"type": "tfidf", "buckets": 512, "dimensions": 16}]}
    with pytest.raises(ConfigError, match=r"routing\.backbone\.features: that run has"):
        warm_source(real(tiny_lms, source).model_copy(update={"routing": _routing(wide)}), tmp_path / "x")
    with pytest.raises(ConfigError, match=r"routing\.backbone\.type: that run has features, this one lm"):
        warm_source(tiny_experiment(tiny_lms, run__warm_start=str(source)), tmp_path / "x")


def test_features_of_a_task_s_name_are_refused_where_no_name_stands(
    tmp_path: Path, tiny_lms: Mapping[str, Path]
) -> None:
    source, features = tmp_path / "replayed", [{"type": "heading"}, {"type": "tfidf"}]
    both = {"type": "features", "features": features}
    named = replay_experiment(skilled(tmp_path / "t.jsonl", 90), task__task_name=True, routing__backbone=both)
    RunFolder(source, named)
    with pytest.raises(ConfigError, match=r"a task's name before each question, .*: that run has yes, this one no"):
        warm_source(real(tiny_lms, source).model_copy(update={"routing": named.routing}), tmp_path / "x")
    again = named.model_copy(update={"run": named.run.model_copy(update={"warm_start": str(source)})})
    assert warm_source(again, tmp_path / "x") == source


@pytest.mark.parametrize("other", [{"task__folds": 4}, {"task__fold": 2}, {"task__held_out": 0.3}])
def test_a_router_that_may_know_what_is_held_out_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    file, source = skilled(tmp_path / "t.jsonl", 90), tmp_path / "replayed"
    RunFolder(source, replay_experiment(file))
    named = str(source)
    assert warm_source(replay_experiment(file, run__warm_start=named), tmp_path / "x") == source
    (path,) = other
    with pytest.raises(ConfigError, match=rf"{path.replace('__', '.')}: that run has"):
        warm_source(replay_experiment(file, run__warm_start=named, **other), tmp_path / "x")


def _routing(backbone: object):  # type: ignore[no-untyped-def]
    return replay_experiment(Path("x"), routing__backbone=backbone).routing


def test_features_of_another_shape_do_not_come_back(tmp_path: Path) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl"), run__steps=20)
    engine, _ = trained(experiment, tmp_path / "run")
    snapshot = asyncio.run(engine.snapshot())
    cut = {name: value[:5] for name, value in snapshot.fitted.items()}
    with pytest.raises(CheckpointError, match="reads other features"):
        asyncio.run(engine.restore(type(snapshot)(snapshot.tensors, snapshot.state, cut)))
