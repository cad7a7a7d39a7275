"""A single run that is asked to leave, by the machine and by name, and a driver killed while it measures: through the
command."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import growth, wait_for
from processes import Started

from haps_search.sweep.journal import Journal
from haps_search.verbs.measured_rows import FOLDER

pytestmark = pytest.mark.slow
STUDY = str(Path(__file__).parents[2] / "search_spaces" / "skills.yaml")
SMALL = [
    "run.questions_per_step=4", "run.episodes_per_question=2", "run.checkpoint_every=1000",
    "task.sizes={train: 64, validation: 24, test: 24}", "tracking.mlflow=false",
]  # fmt: skip


def options(*settings: str) -> list[str]:
    return [part for setting in (*SMALL, *settings) for part in ("--set", setting)]


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("by_name", [False, True], ids=["SIGTERM", "haps stop"])
def test_a_run_that_is_asked_to_leave_saves_its_step_and_goes_on(
    tmp_path: Path, haps: Callable[..., Started], by_name: bool
) -> None:
    run = tmp_path / "runs" / "one"
    settings = options("engine={type: local}", "run.steps=100000", "run.validation={every: 100000, questions: 4}")
    asked = ["train", STUDY, "--name", "one", *settings, "--runs", str(tmp_path / "runs")]
    first = haps(*asked, folder=tmp_path)
    wait_for(lambda: lines(run / "metrics.jsonl") > 2, first.printed, first, growth(run))
    if by_name:
        stopping = haps("stop", "one", "--runs", str(tmp_path / "runs"), folder=tmp_path)
        assert stopping.ended() == 0, stopping.printed()
    else:
        first.signal(signal.SIGTERM)
    assert first.ended(growth(run)) == (0 if by_name else 75), first.printed()
    assert "Traceback" not in first.printed()
    (saved,) = (run / "checkpoints").glob("step-*")
    steps = int(saved.name.removeprefix("step-"))
    assert lines(run / "metrics.jsonl") == steps
    again = haps(*asked, folder=tmp_path)
    wait_for(lambda: lines(run / "metrics.jsonl") > steps, again.printed, again, growth(run))
    again.signal(signal.SIGINT)
    assert again.ended(growth(run)) == 130, again.printed()


@pytest.mark.ray
def test_a_driver_killed_while_it_measures_loses_the_row_it_was_at(
    tmp_path: Path, haps: Callable[..., Started]
) -> None:
    sweep = tmp_path / "runs" / "measured"
    settings = options(
        "sweep.trials=1", "sweep.scheduler={type: none}", "run.steps=2", "run.validation={every: 2, questions: 4}"
    )
    driver = haps(
        "sweep", STUDY, "--name", "measured", *settings, "--runs", str(tmp_path / "runs"), folder=tmp_path
    )  # fmt: skip

    def rows() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (sweep / FOLDER).glob("*.json")}

    wait_for(lambda: len(rows()) >= 2, driver.printed, driver, growth(sweep), every_s=0.02)
    driver.signal(signal.SIGKILL)
    driver.wait()
    kept = rows()
    resumed = haps("resume", "measured", "--runs", str(tmp_path / "runs"), folder=tmp_path)
    assert resumed.ended(growth(sweep)) == 0, resumed.printed()
    assert {name: at for name, at in rows().items() if name in kept} == kept, "measured twice"
    assert len(rows()) > len(kept)
    assert Journal(sweep).ended() is not None
    table: Any = json.loads((sweep / "report.json").read_text())["comparison"]
    assert table[-1]["label"].endswith("(best trial)")
