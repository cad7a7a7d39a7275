"""A run that was interrupted and resumed is the run that was not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from taught_task import TaughtTask, said_table

from haps_search import errors
from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import CheckpointError
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search import loop
from haps_search.search.loop import batch, run
from haps_search.search.stages import RunResult
from haps_search.search.validation import Scored
from haps_search.tasks.task import Task
from haps_search.types import Episode, Question, Rollouts, Snapshot, UpdateReport

TIMES = {"step_seconds", "rollout_seconds", "run_seconds", "tokens_per_second"}


class Interrupted(Exception):
    pass


class InterruptedEngine(LocalEngine):
    """Dies in its n-th update."""

    updates_left = 0

    async def update(self, questions: list[Question], signal: Rollouts) -> UpdateReport:  # type: ignore[override]
        if not self.updates_left:
            raise Interrupted
        self.updates_left -= 1
        return await super().update(questions, signal)


def finished(
    engine: LocalEngine, experiment: Experiment, folder: Path, task: Task | None = None
) -> tuple[RunResult, Snapshot]:
    result = asyncio.run(run(engine, task or DenseTask(), experiment, RunFolder(folder, experiment)))
    return result, asyncio.run(engine.snapshot())


def records(folder: Path) -> list[tuple[int, dict[str, float]]]:
    found = read_records(folder / "metrics.jsonl")
    return [(r.step, {k: v for k, v in r.metrics.items() if k not in TIMES}) for r in found]


POOLED: dict[str, Any] = {
    "routing__prompt": "full",
    "routing__low_level__pooled": {"of": "question", "standardised": True, "dropout": 0.2},
    "routing__low_level__scale_output": True,
}


@pytest.mark.parametrize(("killed_after", "changes"), [(1, {}), (3, {}), (5, {}), (3, POOLED)])
def test_interrupted_and_resumed_is_uninterrupted(
    tiny_lms: dict[str, Path], tmp_path: Path, killed_after: int, changes: dict[str, Any]
) -> None:
    experiment = tiny_experiment(tiny_lms, learning__kl_weight=0.1, **changes)
    whole, weights = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path / "whole")

    broken = InterruptedEngine.build(experiment, DenseTask())
    broken.updates_left = killed_after
    with pytest.raises(Interrupted):
        finished(broken, experiment, tmp_path / "parts")
    resumed, resumed_weights = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path / "parts")

    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert [step for step, _ in records(tmp_path / "whole")] == list(range(1, 7))
    assert resumed.best_step == whole.best_step
    assert resumed_weights.state == weights.state
    for found, wanted in ((resumed_weights.tensors, weights.tensors), (resumed_weights.fitted, weights.fitted)):
        assert set(found) == set(wanted)
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), name


def test_a_finished_run_is_not_run_again(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms)
    first, _ = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path)
    again = InterruptedEngine.build(experiment, DenseTask())
    second, _ = finished(again, experiment, tmp_path)
    assert second == first


def test_another_configuration_is_refused_with_the_difference(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms)
    broken = InterruptedEngine.build(experiment, DenseTask())
    broken.updates_left = 3
    with pytest.raises(Interrupted):
        finished(broken, experiment, tmp_path)
    other = tiny_experiment(tiny_lms, learning__entropy_bonus=0.5)
    with pytest.raises(CheckpointError, match=r"learning\.entropy_bonus"):
        finished(LocalEngine.build(other, DenseTask()), other, tmp_path)


def test_batches_follow_from_seed_and_step_and_use_every_question(tiny_lms: dict[str, Path]) -> None:
    experiment = tiny_experiment(tiny_lms)
    questions = DenseTask().questions("train")
    epoch = [q.id for index in range(3) for q in batch(questions, experiment, index)]
    assert sorted(epoch) == sorted(q.id for q in questions)
    assert [q.id for index in range(3, 6) for q in batch(questions, experiment, index)] != epoch
    assert batch(questions, experiment, 1) == batch(questions, experiment, 1)


def test_a_run_that_patience_ended_ends_there_again(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    """Killed between its last checkpoint and its result, it takes no step more."""
    impatient = {"every": 1, "questions": 6, "patience": 1}
    experiment = tiny_experiment(tiny_lms, run__validation=impatient, run__checkpoint_every=1)
    first, _ = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path)
    assert first.reason == "patience"
    assert first.steps < experiment.run.steps
    (tmp_path / "result.json").unlink()
    again, _ = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path)
    assert again == first
    assert [step for step, _ in records(tmp_path)] == list(range(1, first.steps + 1))


@pytest.mark.parametrize("asked_at", [1, 3, 5])
def test_a_run_that_is_asked_to_leave_loses_no_step(tiny_lms: dict[str, Path], tmp_path: Path, asked_at: int) -> None:
    """It saves the step it was at, also where no checkpoint was due."""
    experiment = tiny_experiment(tiny_lms, run__checkpoint_every=100, run__validation={"every": 100, "questions": 6})
    whole, weights = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path / "whole")
    engine, asked = LocalEngine.build(experiment, DenseTask()), iter(range(1, 100))
    folder = RunFolder(tmp_path / "parts", experiment)
    with pytest.raises(errors.Interrupted, match=f"saved at step {asked_at}"):
        asyncio.run(run(engine, DenseTask(), experiment, folder, leaves=lambda: next(asked) == asked_at))
    rest = InterruptedEngine.build(experiment, DenseTask())
    rest.updates_left = experiment.run.steps - asked_at
    resumed, resumed_weights = finished(rest, experiment, tmp_path / "parts")
    assert resumed.metrics["validation_reward"] == whole.metrics["validation_reward"]
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    for name, tensor in weights.tensors.items():
        assert torch.equal(resumed_weights.tensors[name], tensor), name


def test_a_run_that_is_asked_at_its_last_step_has_ended(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms, run__steps=1)
    engine = LocalEngine.build(experiment, DenseTask())
    result = asyncio.run(run(engine, DenseTask(), experiment, RunFolder(tmp_path, experiment), leaves=lambda: True))
    assert result.reason == "steps"


def test_where_cost_weighs_the_best_step_is_the_one_worth_most(
    tiny_lms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step's router earns 0.4 more than the first's, and costs 0.3 more at a weight of 2."""
    experiment = tiny_experiment(
        tiny_lms, run__steps=2, run__validation={"every": 1, "questions": 6}, learning__cost_weight=2.0
    )
    rewards, costs, score = iter([0.5, 0.9]), iter([0.1, 0.4]), loop.score_router

    async def scored(*parts: Any) -> Scored:
        found = await score(*parts)
        return replace(found, rewards=(next(rewards),) * len(found.rewards))

    monkeypatch.setattr(loop, "score_router", scored)
    monkeypatch.setattr(loop, "mean_cost", lambda *parts: next(costs))
    result, _ = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path)
    found = [(m["validation_reward"], m["validation_utility"]) for _, m in records(tmp_path)]
    assert found == [(0.5, pytest.approx(0.3)), (0.9, pytest.approx(0.1))]
    assert result.best_step == 1


TAUGHT: dict[str, Any] = {"learning__signal": "references", "routing__low_level": {"type": "static", "init": "xavier"}}


@pytest.mark.parametrize(("killed_after", "completions"), [(0, False), (3, False), (3, True)])
def test_what_learns_from_references_goes_on_as_if_nothing_had_been(
    tiny_lms: dict[str, Path], tmp_path: Path, killed_after: int, completions: bool
) -> None:
    said = [(q, "llama", text, len(text) / 4) for q in TaughtTask().questions("train")[::2] for text in ("x", "yyy")]
    table = {"completions": str(said_table(tmp_path / "said.parquet", said))} if completions else {}
    experiment = tiny_experiment(tiny_lms, learning__references=table, **TAUGHT)
    whole, weights = finished(LocalEngine.build(experiment, TaughtTask()), experiment, tmp_path / "whole", TaughtTask())
    broken = InterruptedEngine.build(experiment, TaughtTask())
    broken.updates_left = killed_after
    with pytest.raises(Interrupted):
        finished(broken, experiment, tmp_path / "parts", TaughtTask())
    resumed, again = finished(LocalEngine.build(experiment, TaughtTask()), experiment, tmp_path / "parts", TaughtTask())

    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    first, last = (records(tmp_path / "whole")[i][1]["reference_log_likelihood"] for i in (0, -1))
    assert completions or last > first
    assert resumed.best_step == whole.best_step
    for name, tensor in weights.tensors.items():
        assert torch.equal(again.tensors[name], tensor), name


def test_seconds_of_a_run_go_on_where_they_were_saved(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms)
    broken = InterruptedEngine.build(experiment, DenseTask())
    broken.updates_left = 5
    with pytest.raises(Interrupted):
        finished(broken, experiment, tmp_path)
    saved = RunFolder(tmp_path, experiment).latest()
    assert saved is not None
    seconds = saved.state["seconds"]
    (validated,) = [r.metrics["run_seconds"] for r in read_records(tmp_path / "metrics.jsonl") if r.step == 3]
    assert 0 < validated <= seconds
    finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path)
    (last,) = [r.metrics["run_seconds"] for r in read_records(tmp_path / "metrics.jsonl") if r.step == 6]
    assert last > seconds


class PaidTask(TaughtTask):
    """Longer answers earn more, so that rewards differ."""

    def reward(self, episode: Episode) -> float:
        return min(len(episode.answer or "") / 8, 1.0)


STAGED: dict[str, Any] = {
    "routing__low_level": {"type": "static", "init": "xavier"},
    "stages": [
        {"learning.signal": "references", "run.steps": 3, "learning.learning_rate.low": 0.02},
        {"learning.kl_weight": 0.3, "learning.kl_to": "start", "run.steps": 4},
    ],
}


@pytest.mark.parametrize("killed_after", [2, 3, 4, 6], ids=lambda n: f"after {n}")
def test_a_run_of_stages_goes_on_in_the_stage_it_was_in(
    tiny_lms: dict[str, Path], tmp_path: Path, killed_after: int
) -> None:
    """Also where it was killed before the first step of a stage, and before the first checkpoint of one."""
    experiment = tiny_experiment(tiny_lms, **STAGED)
    whole, weights = finished(LocalEngine.build(experiment, PaidTask()), experiment, tmp_path / "whole", PaidTask())
    broken = InterruptedEngine.build(experiment, PaidTask())
    broken.updates_left = killed_after
    with pytest.raises(Interrupted):
        finished(broken, experiment, tmp_path / "parts", PaidTask())
    resumed, again = finished(LocalEngine.build(experiment, PaidTask()), experiment, tmp_path / "parts", PaidTask())

    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    found = records(tmp_path / "whole")
    assert [(step, m["stage"]) for step, m in found] == [(n, 1.0 if n < 4 else 2.0) for n in range(1, 8)]
    assert ["reference_match" in metrics for _, metrics in found] == [True] * 3 + [False] * 4
    assert found[3][1]["learning_rate_factor"] == 1.0  # a schedule of its own
    assert found[3][1]["kl"] == pytest.approx(0.0, abs=1e-12)  # held to where it begins
    assert found[-1][1]["kl"] > 0
    assert (resumed.reason, resumed.steps, resumed.best_step) == (whole.reason, 7, whole.best_step)
    assert again.state == weights.state == {"version": 4}
    for kept, wanted in ((again.tensors, weights.tensors), (again.fitted, weights.fitted)):
        assert set(kept) == set(wanted)
        for name, tensor in wanted.items():
            assert torch.equal(kept[name], tensor), name


def test_a_stage_begins_with_the_best_step_before_it_and_has_to_beat_it(
    tiny_lms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three validations is the best, and in the first stage, which patience ends: the next begins there,
    at its own first step all the same, and never is better."""
    rewards, score = iter([0.5, 0.9, 0.6, 0.8, 0.9]), loop.score_router

    async def scored(*parts: Any) -> Scored:
        found = await score(*parts)
        return replace(found, rewards=(next(rewards),) * len(found.rewards))

    monkeypatch.setattr(loop, "score_router", scored)
    stages = [{"run.steps": 5, "run.validation.patience": 1}, {"run.steps": 2, "learning.kl_to": "start"}]
    every = {"every": 1, "questions": 6}
    experiment = tiny_experiment(tiny_lms, stages=stages, run__validation=every, run__keep_checkpoints=9)
    result, last = finished(LocalEngine.build(experiment, DenseTask()), experiment, tmp_path)
    assert [step for step, _ in records(tmp_path)] == [1, 2, 3, 6, 7]
    assert (result.reason, result.steps, result.best_step, result.metrics["validation_reward"]) == ("steps", 7, 2, 0.9)
    best = RunFolder(tmp_path, experiment).best()
    assert best is not None
    assert best.step == 2
    held = {name.removeprefix("start."): tensor for name, tensor in last.fitted.items()}
    assert held
    for name, tensor in held.items():
        torch.testing.assert_close(tensor, best.snapshot.tensors[f"router.low.{name}"])


def test_the_best_of_a_stage_that_measures_something_else_is_its_own(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    stages = [{"run.steps": 3}, {"learning.signal": "references", "run.steps": 3}]
    stages[1]["run.validation.best"] = "reference_log_likelihood"
    experiment = tiny_experiment(tiny_lms, stages=stages)
    result, _ = finished(LocalEngine.build(experiment, TaughtTask()), experiment, tmp_path, TaughtTask())
    assert result.best_step == 6
