"""`haps compare` of arms on an outcome table: who is measured, who is missing, and that the test split is read once."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_sweeps import FRUIT, fruit_study, fruit_table, train
from rich.console import Console
from sweeps import a_trial, write

from haps_search.cli.display import Terminal
from haps_search.cli.sweep_tables import show_arms
from haps_search.config.load import dump, fingerprint, parse_study
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.cluster import trial
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.evaluation import intervals as tables
from haps_search.records.readings import readings
from haps_search.sweep.events import SweepStarted
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.settings import arms, experiment_of
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import reported
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.tables.reading import held
from haps_search.verbs import compare as measuring


class Tables:
    """A session that has nobody to ask, as for every replay."""

    async def engine(self, experiment: Experiment) -> LocalEngine:
        return LocalEngine.build(experiment, build_task(experiment.task))


@dataclass
class Held:
    """What `measure_arms` needs of a driver."""

    journal: Journal
    report: Terminal = field(default_factory=lambda: Terminal(Console(record=True, width=200, file=io.StringIO())))
    live: Tables = field(default_factory=Tables)


def an_arms_study(folder: Path) -> Study:
    """Apple answered half of the questions, and a fourth model alone some more."""
    table = fruit_table(folder / "t.jsonl", 120)
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["scores"] |= {"fig": 1.0} | ({"apple": None} if number % 2 else {})
        if number % 10 == 3:
            line["scores"] |= dict.fromkeys(FRUIT)
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"type": "replay", "table": {"file": str(table), "layout": {"type": "routerbench"}, "missing": "keep"}}
    study = dump(fruit_study(table, task=task))
    slow = {"learning.learning_rate.high": 1e-4}
    described = {"name": "fruit", "experiment": study["experiment"], "tracking": {"mlflow": False}}
    return parse_study({**described, "arms": {"quick": {}, "slow": slow}, "sweep": {"seeds": [3, 5]}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A sweep of two arms and two seeds, of which one has not begun and one has not ended."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("arms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAPS_CACHE", str(folder / "cache"))
        study, sweep = an_arms_study(folder), folder / "made"
        sweep.mkdir()
        journal = Journal(sweep)
        journal.append(SweepStarted(dump(study), fingerprint(study), "9.9", 1767225600.0))
        begun = []
        for number, setting in enumerate(arms(study)[:3]):
            state, metrics = "running", {}
            if number < 2:
                state = "finished"
                metrics = dict(train(experiment_of(study, setting), trial_folder(sweep, number)))
            fields: dict[str, Any] = {"parameters": setting.parameters, "seed": setting.seed, "label": setting.label}
            begun.append(a_trial(number, **fields, state=state, metrics=metrics))
        write(journal, *begun)
    return study, sweep


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, made: tuple[Study, Path]) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(made[1].parent / "cache"))
    monkeypatch.setattr(tables, "DRAWS", 50)
    (made[1] / "test-readings.jsonl").unlink(missing_ok=True)


def shown(made: tuple[Study, Path], split: Any, again: bool = False) -> tuple[str, Mapping[str, Any]]:
    study, sweep = made
    driver: Any = Held(Journal(sweep))
    found = measuring.measure_arms(driver, study, split, again)
    show_arms(driver.report, found)
    return driver.report.console.export_text(), json.loads(found.file.read_text())


def test_arms_on_a_table_with_gaps_are_measured_without_frozen_candidates(made: tuple[Study, Path]) -> None:
    said, kept = shown(made, "validation")
    assert [row["label"] for row in kept["rows"]] == ["quick", "slow"]
    task = build_task(made[0].experiment.task)
    assert isinstance(task, ReplayTask)
    asked = task.questions("validation")
    assert kept["questions"] == [q.id for q in reported(task, made[0].experiment, "validation")]
    assert 0 < len(kept["questions"]) < len(task.answered(asked, FRUIT)) < len(asked)
    assert "frozen" not in said
    assert readings(made[1]) == [], "only the test split is counted"


def test_arms_that_have_not_ended_are_named(made: tuple[Study, Path]) -> None:
    said, kept = shown(made, "validation")
    assert kept["missing"] == ["quick, seed 5", "slow, seed 5"]
    for name in kept["missing"]:
        assert f"missing {name}: not ended; `haps resume made`" in said


def test_the_test_split_is_read_once(made: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = made[1]
    shown(made, "test")
    assert [reading.judged for reading in readings(sweep)] == ["made, 2 runs of arms"]
    read: list[str] = []
    rows = ReplayTask.rows
    monkeypatch.setattr(ReplayTask, "rows", lambda self, split: read.append(split) or rows(self, split))
    with pytest.raises(ConfigError, match=r"the test split was read on .*--again"):
        shown(made, "test")
    assert "test" not in read
    said, _ = shown(made, "test", again=True)
    assert "the test split was read 1 times before" in said
    assert len(readings(sweep)) == 2


def test_a_second_reading_is_refused_before_ray_is_started(
    made: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sweep = made
    started: list[bool] = []

    def driven(*arguments: Any, **options: Any) -> Any:
        started.append(True)
        return arguments[-1](Held(Journal(sweep)))

    monkeypatch.setattr(measuring, "driven", driven)
    measuring.compare("made", "test", again=False, runs=sweep.parent)
    with pytest.raises(ConfigError, match="--again"):
        measuring.compare("made", "test", again=False, runs=sweep.parent)
    assert started == [True]
    measuring.compare("made", "test", again=True, runs=sweep.parent)
    assert started == [True, True]


@pytest.mark.parametrize("missing", ["keep", "drop"])
def test_a_trial_takes_the_studys_table_only_as_its_own(
    made: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Tune hands the study's table to every trial; one that describes it otherwise must not be given it."""
    study, _ = made
    task = study.experiment.task
    assert task.type == "replay"
    seen: list[OutcomeTable] = []

    async def ran(experiment: Experiment, *_: Any) -> None:
        own = build_task(experiment.task)
        assert isinstance(own, ReplayTask)
        seen.append(own.table)

    monkeypatch.setattr(trial, "_run", ran)
    described = study.experiment.model_dump(mode="json")
    described["task"]["table"]["missing"] = missing
    config = {"experiment": described, "folder": str(tmp_path / "run"), "namespace": "x", "profile": {"name": "p"}}
    whole = held(task.table)
    trial.run_trial(config, (task.table, whole))
    assert (seen[0] is whole) == (missing == "keep")
    assert len(seen[0].questions) == {"keep": 120, "drop": 60}[missing]
