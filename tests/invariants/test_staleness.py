"""Rollouts one update ahead: they overlap with learning, begin afresh after each save, and off means off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from pydantic import ValidationError
from replays import replay_experiment

from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import Interrupted
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.types import (
    Question,
    Sampled,
    SampleRequest,
    ScoreRequest,
    Scores,
    Signal,
    Snapshot,
    UpdateReport,
)

TIMES = {"step_seconds", "rollout_seconds", "run_seconds", "tokens_per_second"}
SETTINGS: dict[str, Any] = {
    "run__steps": 8, "run__checkpoint_every": 4, "run__validation": {"every": 8, "questions": 4},
}  # fmt: skip


class Killed(Exception):
    pass


class Watched(LocalEngine):
    """Writes down what happens, learns slowly, and may die in its n-th update."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.events: list[str] = []
        self.ages: list[int] = []
        self.updates_left = 100

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self.events.append("sample")
        return await super().sample(candidate, requests)

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        self.events.append("score")
        await asyncio.sleep(0.01)
        return await super().score(candidate, requests)

    async def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        if not self.updates_left:
            raise Killed
        self.updates_left -= 1
        await asyncio.sleep(0.01)
        self.ages.append(self._learner.version - signal.version)
        report = await super().update(questions, signal)
        self.events.append("update")
        return report


def played(engine: Watched, experiment: Experiment, folder: Path) -> tuple[list[dict[str, float]], Snapshot]:
    asyncio.run(run(engine, DenseTask(), experiment, RunFolder(folder, experiment)))
    records = read_records(folder / "metrics.jsonl")
    metrics = [{k: v for k, v in r.metrics.items() if k not in TIMES} for r in records]
    return metrics, asyncio.run(engine.snapshot())


def overlaps(events: Sequence[str]) -> int:
    """In how many steps somebody sampled between the first score and the end of the update."""
    cut = "".join({"sample": "s", "score": "(", "update": ")"}[event] for event in events)
    return sum("s" in step.partition("(")[2] for step in cut.split(")"))


def test_the_next_rollouts_begin_while_the_router_learns_and_afresh_after_a_save(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    experiment = tiny_experiment(tiny_lms, run__staleness=1, **SETTINGS)
    engine = Watched.build(experiment, DenseTask())
    assert isinstance(engine, Watched)
    metrics, _ = played(engine, experiment, tmp_path)
    assert engine.ages == [0, 1, 1, 1, 0, 1, 1, 1]
    assert [m["staleness"] for m in metrics] == engine.ages
    assert overlaps(engine.events) == 6


def test_without_staleness_nothing_is_played_ahead(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms, **SETTINGS)
    engine = Watched.build(experiment, DenseTask())
    assert isinstance(engine, Watched)
    metrics, _ = played(engine, experiment, tmp_path)
    assert engine.ages == [0] * 8
    assert overlaps(engine.events) == 0
    assert "staleness" not in metrics[0]


def test_a_run_with_staleness_that_was_interrupted_and_resumed_is_the_run_that_was_not(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    experiment = tiny_experiment(tiny_lms, run__staleness=1, **SETTINGS)
    engines = [Watched.build(experiment, DenseTask()) for _ in range(3)]
    whole, broken, resumed = (engine for engine in engines if isinstance(engine, Watched))
    wanted, weights = played(whole, experiment, tmp_path / "whole")
    broken.updates_left = 6
    with pytest.raises(Killed):
        played(broken, experiment, tmp_path / "parts")
    found, same = played(resumed, experiment, tmp_path / "parts")
    assert resumed.ages == [0, 1, 1, 1]
    assert found == wanted
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in same.tensors.items())


@pytest.mark.parametrize(("asked_at", "saved"), [(2, 0), (4, 4), (6, 4)])
def test_a_run_with_staleness_that_was_asked_to_leave_goes_on_as_the_run_that_was_not(
    asked_at: int, saved: int, tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    """What is played ahead is not saved, so neither is the step before it."""
    experiment = tiny_experiment(tiny_lms, run__staleness=1, **SETTINGS)
    engines = [Watched.build(experiment, DenseTask()) for _ in range(3)]
    whole, left, resumed = (engine for engine in engines if isinstance(engine, Watched))
    wanted, weights = played(whole, experiment, tmp_path / "whole")
    folder, asked = RunFolder(tmp_path / "parts", experiment), iter(range(1, 100))
    with pytest.raises(Interrupted, match="saved at step 4" if asked_at == saved else "from its last checkpoint"):
        asyncio.run(run(left, DenseTask(), experiment, folder, leaves=lambda: next(asked) == asked_at))
    found, same = played(resumed, experiment, tmp_path / "parts")
    assert len(resumed.ages) == 8 - saved
    assert found == wanted
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in same.tensors.items())


def test_steps_that_overlap_are_not_counted_twice(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms, run__staleness=1, **SETTINGS)
    engine, began = Watched.build(experiment, DenseTask()), time.perf_counter()
    asyncio.run(run(engine, DenseTask(), experiment, RunFolder(tmp_path, experiment)))
    took = [record.metrics["step_seconds"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert sum(took) <= time.perf_counter() - began


def test_outcomes_are_not_played_so_nothing_can_be_ahead(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"run\.staleness.*leave it at 0"):
        replay_experiment(tmp_path / "table.csv", run__staleness=1)
