"""Faults of the surroundings: rewards that are no numbers, a clock that jumps, checkpoints cut short."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from pathlib import Path

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from sweeps import a_study

from haps_search.engines.local import LocalEngine
from haps_search.errors import DataError, PoolError
from haps_search.records.jsonl import JsonlTracker, JsonlWriter, read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.sweep.events import AttemptStarted, TrialReported, TrialSuggested
from haps_search.sweep.journal import open_sweep
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.progress import Progress, fraction_done
from haps_search.types import Episode, Snapshot


class Failing(DenseTask):
    """Its reward is not a number from the n-th training episode on."""

    def __init__(self, good: float) -> None:
        self._left = good

    def reward(self, episode: Episode) -> float:
        self._left -= episode.question.id.startswith("train")
        return super().reward(episode) if self._left >= 0 else math.nan


def test_a_reward_that_is_not_a_number_ends_the_run_at_its_last_checkpoint(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    experiment = tiny_experiment(tiny_lms)
    episodes = experiment.run.questions_per_step * experiment.run.episodes_per_question
    folder = RunFolder(tmp_path, experiment)
    engine = LocalEngine.build(experiment, DenseTask())
    with pytest.raises(DataError, match=r"got the reward nan for question train-\d+, needs a number in \[0, 1\]"):
        asyncio.run(run(engine, Failing(3 * episodes), experiment, folder))
    saved = folder.latest()
    assert saved is not None
    assert saved.step == 3
    mended = asyncio.run(run(LocalEngine.build(experiment, DenseTask()), DenseTask(), experiment, folder))
    assert mended.steps == experiment.run.steps
    assert [record.step for record in read_records(tmp_path / "metrics.jsonl")] == list(range(1, mended.steps + 1))


def test_a_clock_that_goes_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back at each look at it."""
    now, looks = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(looks))
    study = a_study()
    journal = open_sweep(tmp_path / "sweep", study, resume=False)
    journal.append(TrialSuggested(0, {}, 0))
    journal.append(AttemptStarted(0, 1))
    progress, shares = Progress(journal, study), []
    tracker = JsonlTracker(trial_folder(journal.folder, 0) / "metrics.jsonl")
    for step in (1, 2, 3):
        tracker.log(step, {"reward": 0.5})
        journal.append(TrialReported(0, step, {"reward": 0.5}))
        shares.append(fraction_done(progress.trials(), study, 1))
    assert shares == sorted(set(shares))
    records = read_records(trial_folder(journal.folder, 0) / "metrics.jsonl")
    assert [record.step for record in records] == [1, 2, 3]
    assert records[2].time < records[0].time
    journal.close()
    again = open_sweep(tmp_path / "sweep", study, resume=True)
    assert [step for step, _ in again.trials()[0].reports] == [1, 2, 3]
    again.close()


def saved(folder: Path) -> RunFolder:
    run = RunFolder(folder, a_study().experiment)
    for step in (1, 2):
        save(run, step)
    return run


def save(run: RunFolder, step: int) -> None:
    run.save(step, Snapshot({"w": torch.full((100,), float(step))}, {}), {"step": step}, best=False)


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "digests.json"])
@pytest.mark.parametrize("left", [0, 20])
def test_a_checkpoint_cut_short_is_passed_over_and_replaced(
    tmp_path: Path, file: str, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = saved(tmp_path)
    cut = tmp_path / "checkpoints" / "step-000002" / file
    cut.write_bytes(cut.read_bytes()[:left])
    found = run.latest()
    assert found is not None
    assert found.step == 1
    assert "passed over a damaged checkpoint" in caplog.text
    save(run, 2)
    again = run.latest()
    assert again is not None
    assert (again.step, again.skipped) == (2, ())


def test_no_checkpoint_without_the_records_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes the checkpoint but not the line: a resume would go on behind a step that nobody wrote down."""
    run = saved(tmp_path)

    def full(self: JsonlWriter, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JsonlWriter, "_write", full)
        run.log(3, {"reward": 1.0})
        with pytest.raises(PoolError, match="No space left"):
            save(run, 3)
    found = run.latest()
    assert found is not None
    assert found.step == 2
    save(run, 3)
    assert [record.step for record in read_records(tmp_path / "metrics.jsonl")] == [3]


def test_every_fault_of_the_page_has_its_test() -> None:
    root = Path(__file__).parents[2]
    rows = [line for line in (root / "clusters" / "faults.md").read_text().splitlines() if "::" in line]
    named = [re.search(r"`(tests/[\w/]+\.py)::(\w+)`", line) for line in rows]
    assert rows
    for found in named:
        assert found is not None
        assert f"def {found[2]}(" in (root / found[1]).read_text(), found[0]
