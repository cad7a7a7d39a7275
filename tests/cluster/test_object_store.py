"""A sweep kept in an object store: its driver killed with -9, and resumed from elsewhere with nothing on disk."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from patience import growth, wait_for
from processes import Started
from replays import replay_experiment, skilled
from stores import S3, s3_server

from haps_search.records.jsonl import read_records
from haps_search.records.remote import remote_of, working_folder_at
from haps_search.records.remote_checkpoints import pull_checkpoints
from haps_search.sweep.hold import fetched
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

pytestmark = pytest.mark.ray
TRIALS = 2
# One after the other, and long enough that the second cannot end between the look and the kill.
POOL_STEPS = 40
POOL = [
    "sweep.concurrency=1", "sweep.scheduler={type: none}", "sweep.comparison=false", f"sweep.trials={TRIALS}",
    f"run.steps={POOL_STEPS}", "run.questions_per_step=8", "run.episodes_per_question=2", "run.checkpoint_every=3",
    "run.validation={every: 10, questions: 12}", "task.sizes={train: 64, validation: 24, test: 24}",
]  # fmt: skip


def played_by_a_pool(folder: Path) -> tuple[list[str], int]:
    study = Path(__file__).parents[2] / "search_spaces" / "skills.yaml"
    return [str(study), *(part for setting in POOL for part in ("--set", setting))], POOL_STEPS


def replayed(folder: Path) -> tuple[list[str], int]:
    steps = 160
    run = {"steps": steps, "questions_per_step": 64, "checkpoint_every": 20, "validation": {"every": 40}}
    experiment = replay_experiment(skilled(folder / "table.jsonl"), run=run).model_dump(mode="json")
    study = {
        "name": "replayed",
        "experiment": {**experiment, "engine": {"type": "ray", "profile": "local-cpu"}},
        "space": {"learning.learning_rate.high": {"type": "log", "low": 0.01, "high": 0.1}},
        "sweep": {"trials": TRIALS, "concurrency": 1, "comparison": False},
        "tracking": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return [str(folder / "study.yaml")], steps


def from_a_machine(folder: Path, s3: S3) -> dict[str, Any]:
    """A working directory and a cache that only this call has."""
    folder.mkdir()
    return {"folder": folder, "HAPS_CACHE": str(folder / "cache"), "HAPS_RUNS": s3.uri()}


def as_stored(s3: S3, folder: Path) -> Path:
    """The sweep as the store alone has it."""
    return fetched(working_folder_at(folder, s3.uri()) / "killed")


def ended_in(sweep: Path) -> list[int]:
    """By the runs' own word: the journal may not have come to note it."""
    return [n for n in range(TRIALS) if (trial_folder(sweep, n) / "result.json").exists()]


def wait_until_halfway(s3: S3, folder: Path, driver: Started) -> None:
    """One trial has ended, and another has left a checkpoint."""

    def halfway() -> bool:
        sweep = as_stored(s3, folder)
        begun = [n for n in range(TRIALS) if checkpoints_of(sweep, n)]
        return bool(ended_in(sweep) and set(begun) - set(ended_in(sweep)))

    wait_for(halfway, driver.printed, driver, growth(folder))


def steps_of(sweep: Path, number: int) -> list[int]:
    return [record.step for record in read_records(trial_folder(sweep, number) / "metrics.jsonl")]


def checkpoints_of(sweep: Path, number: int) -> list[str]:
    folder, remote = trial_folder(sweep, number) / "checkpoints", remote_of(sweep)
    assert remote is not None
    pull_checkpoints(remote, folder)
    return sorted(path.name for path in folder.glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [replayed, played_by_a_pool])
def test_a_sweep_in_an_object_store_is_killed_and_resumed_from_elsewhere(
    kind: Callable[[Path], tuple[list[str], int]], tmp_path: Path, haps: Callable[..., Started],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    study, steps = kind(tmp_path)
    with s3_server(monkeypatch) as s3:
        driver = haps("sweep", *study, "--name", "killed", **from_a_machine(tmp_path / "1", s3))
        wait_until_halfway(s3, tmp_path / "seen", driver)
        driver.signal(signal.SIGKILL)
        driver.wait()
        before = as_stored(s3, tmp_path / "before")
        ended, at_kill = ended_in(before), Journal(before).trials()

        resumed = haps("resume", "killed", **from_a_machine(tmp_path / "2", s3))
        assert resumed.ended(growth(tmp_path / "2")) == 0, resumed.printed()

        sweep = as_stored(s3, tmp_path / "after")
        after = Journal(sweep).trials()
        assert [(t.number, t.state) for t in after] == [(n, "finished") for n in range(TRIALS)]
        assert 0 < len(ended) < len(at_kill), "nothing was interrupted, so nothing was tested"
        for record in at_kill:
            assert after[record.number].parameters == record.parameters
            assert after[record.number].attempts == (1 if record.number in ended else 2)
        for number in range(TRIALS):
            assert steps_of(sweep, number) == list(range(1, steps + 1)), "a step is missing or there twice"
            assert f"step-{steps:06d}" in checkpoints_of(sweep, number)
        assert (sweep / "report.json").exists()
        assert "best trial" in resumed.printed()
        assert not [path for n in ("1", "2") for path in (tmp_path / n).iterdir() if path.name != "cache"]
