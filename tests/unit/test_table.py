"""The final table of a search, measured in this process: its rows, what they cost, and that test is read once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments import tiny_experiment
from rich.console import Console
from sweeps import a_study, a_trial, write
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.cli.sweep_tables import comparison_table, comparison_title, cost_table, counted
from haps_search.config.load import parse_study
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.evaluation.comparison import Row
from haps_search.evaluation.intervals import Interval
from haps_search.records.readings import readings
from haps_search.records.run_folder import RunFolder
from haps_search.report.comparisons import comparison, on_test, standings_table
from haps_search.report.source import read_sweep
from haps_search.report.verdict import verdict
from haps_search.search.loop import run
from haps_search.sweep.events import SweepEnded, TrialRecord
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.opponents import opponents
from haps_search.sweep.settings import Setting, confirmations, experiment_of
from haps_search.sweep.suggestions import suggestion
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import reported
from haps_search.verbs import table as verb
from haps_search.verbs.evaluate import TableOnSplit, evaluate
from haps_search.verbs.events import Said
from haps_search.verbs.sweep import keep_report

RATE = "learning.learning_rate.high"
SINGLES = ("always llama", "always qwen2")


def trained(experiment: Experiment, folder: Path) -> tuple[tuple[int, Mapping[str, float]], ...]:
    task, reports = build_task(experiment.task), list[tuple[int, Mapping[str, float]]]()
    engine = LocalEngine.build(experiment, task)
    asyncio.run(run(engine, task, experiment, RunFolder(folder, experiment), lambda *each: reports.append(each)))
    return tuple(reports)


def ended(folder: Path, study: Study, number: int, setting: Setting) -> TrialRecord:
    record = TrialRecord(number, setting.parameters, setting.seed, setting.kind, setting.label)
    reports = trained(experiment_of(study, record), trial_folder(folder, number))
    return replace(record, state="finished", reports=reports, metrics=reports[-1][1], attempts=1)


@pytest.fixture(scope="module")
def made(tiny_lms: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one trial with a trial of each opponent, and the best setting on two fresh seeds."""
    runs = tmp_path_factory.mktemp("runs")
    described = tiny_experiment(
        tiny_lms,
        task={"type": "skills", "sizes": {"train": 24, "validation": 18, "test": 9}},
        run__steps=2,
        run__validation={"every": 1, "questions": 3},
        engine={"type": "ray", "profile": "local-cpu"},
    ).model_dump(mode="json")
    space = {RATE: {"type": "log", "low": 1e-4, "high": 1e-2}}
    sweep = {"trials": 1, "opponents": {"few_shot": {"examples": [1, 2]}}}
    values = {"name": "made", "experiment": described, "space": space, "sweep": sweep, "tracking": {"mlflow": False}}
    study, folder = parse_study(values), runs / "made"
    journal = open_sweep(folder, study, resume=False)
    best = ended(folder, study, 0, Setting({RATE: 1e-3}, 0))
    records = [best]
    for search in opponents(study, best).values():
        drawn = suggestion(search.study, [], len(records))
        assert drawn is not None
        records.append(ended(folder, study, len(records), search.setting(drawn, 0)))
    write(journal, *records)
    for record in records:
        _reported(journal, record)
    journal.append(SweepEnded("all trials ended", 1.0))
    journal.close()
    return runs


def _reported(journal: Journal, record: TrialRecord) -> None:
    """`write` leaves reports out, and they count no more after an end: put before it, as a driver does."""
    lines = journal.file.read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if json.loads(line).get("number") == record.number and "ended" in line)
    reports = [
        json.dumps({"event": "trial_reported", "number": record.number, "step": step, "metrics": dict(metrics)})
        for step, metrics in record.reports
    ]
    journal.file.write_text("\n".join([*lines[:end], *reports, *lines[end:]]) + "\n")


@pytest.fixture(scope="module")
def rows(made: Path) -> tuple[list[Row], Path]:
    journal = Journal(made / "made")
    study, best = journal.study(), journal.trials()[0]
    found, _ = verb.measured_rows(verb.OwnProcess(), journal, study, best, "validation", lambda _: None)
    keep_report(made / "made", study, [best], found)
    return found, made / "made"


def test_every_row_is_measured_on_the_questions_that_chose_nothing(rows: tuple[list[Row], Path]) -> None:
    found, folder = rows
    labels = [row.label for row in found]
    shown = next(label for label in labels if label.startswith("few-shot, "))
    assert labels == [
        "random", *SINGLES, "majority answer per task", shown, "best per task", "per-query oracle",
        "independent answerers", "architecture-only", "static adapter", "plain LoRA", "joint (best trial)",
    ]  # fmt: skip
    study = Journal(folder).study()
    count = len(reported(build_task(study.experiment.task), study.experiment, "validation"))
    assert {row.reward.count for row in found} == {count}
    assert 0 < count < 18
    chosen = json.loads((folder / "choices.json").read_text())
    assert set(chosen["best_per_task"]) == {"", "add", "reverse", "sort"}
    assert f"few-shot, {chosen['few_shot']['candidate']}, {chosen['few_shot']['examples']} example" in shown


def test_what_learnt_says_what_it_cost(rows: tuple[list[Row], Path]) -> None:
    found, _ = rows
    costs = {row.label: row.cost for row in found if row.cost is not None}
    assert list(costs) == ["architecture-only", "static adapter", "plain LoRA", "joint (best trial)"]
    for cost in costs.values():
        assert cost.trials == 1
        assert cost.core_seconds is not None
        assert cost.core_seconds > 0
        assert cost.step_seconds is not None
        assert cost.parameters is not None
        assert cost.forward is not None
    architecture, static, plain, joint = costs.values()
    assert architecture.parameters < static.parameters < plain.parameters  # type: ignore[operator]
    assert architecture.backward < joint.backward < plain.backward  # type: ignore[operator]
    assert static.backward < joint.backward, "nothing is generated"  # type: ignore[operator]


def test_the_terminal_shows_both_tables_within_100_columns(rows: tuple[list[Row], Path]) -> None:
    found, _ = rows
    console = Console(width=100, record=True)
    for table in (comparison_table(found), cost_table(found)):
        console.print(table)
    text = console.export_text()
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())
    assert "…" not in text
    for header in ("joint minus this", "trials", "core-seconds", "parameters", "forward FLOPs", "backward FLOPs"):
        assert header in text


def test_large_numbers_are_shown_in_three_digits() -> None:
    shown = [counted(n) for n in (None, 7.0, 999.9, 1234.0, 2.5e6, 3e9, 12.34e12, 4e15)]
    assert shown == ["-", "7", "1k", "1.23k", "2.5M", "3G", "12.3T", "4P"]


def test_the_report_has_the_costs_beside_the_rows_and_says_what_the_best_of_the_others_takes(
    rows: tuple[list[Row], Path],
) -> None:
    _, folder = rows
    source = read_sweep(Journal(folder))
    found = comparison(source)
    assert found is not None
    table = standings_table(found)
    assert {"trials", "core-seconds", "parameters", "forward FLOPs per step"} <= set(table.columns)
    said = " ".join(verdict(source))
    assert "the best row beside it" in said
    assert "independent answerers" not in said


# The test split.


@pytest.fixture
def unread(made: Path) -> Path:
    for name in ("test-readings.jsonl", "table-test.json"):
        (made / "made" / name).unlink(missing_ok=True)
    return made


def test_test_is_read_for_all_rows_at_once_and_once(unread: Path, rows: tuple[list[Row], Path]) -> None:
    found = evaluate("made", "test", runs=unread)
    assert isinstance(found, TableOnSplit)
    assert [row.label for row in found.rows] == [row.label for row in rows[0]]
    assert {row.reward.count for row in found.rows} == {9}
    assert [reading.judged for reading in readings(unread / "made")] == ["made, all rows of its table"]
    kept = json.loads(found.file.read_text())
    assert len(kept["questions"]) == 9
    assert set(kept["rewards"]) >= {"always llama", "plain LoRA", "joint (best trial)", "best per task"}
    assert all(q.startswith("test") for q in kept["questions"])
    for name in ("made", "made/0", "made/2"):
        with pytest.raises(ConfigError, match="--again"):
            evaluate(name, "test", runs=unread)
    assert len(readings(unread / "made")) == 1
    said: list[Any] = []
    evaluate("made/2", "test", again=True, runs=unread, report=said.append)
    assert any(isinstance(e, Said) and "read 1 times before" in e.text for e in said)
    assert [reading.judged for reading in readings(unread / "made")][1] == "002 of made"
    assert on_test(read_sweep(Journal(unread / "made"))) is not None


def test_the_command_shows_it(unread: Path, rows: tuple[list[Row], Path]) -> None:
    done = CliRunner().invoke(
        app, ["evaluate", "made", "--split", "test", "--runs", str(unread)], catch_exceptions=False
    )
    assert "greedy reward on 9 test questions" in done.stdout
    assert "plain LoRA" in done.stdout
    assert "core-seconds" in done.stdout


def test_choices_are_made_on_validation_and_not_again_when_test_is_read(
    unread: Path, rows: tuple[list[Row], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*_: Any) -> Any:
        raise AssertionError("chosen anew")

    monkeypatch.setattr(verb, "best_per_task", chosen)
    monkeypatch.setattr(verb, "choosing", chosen)
    assert isinstance(evaluate("made", "test", runs=unread), TableOnSplit)


def test_fresh_seeds_take_the_place_of_the_one_that_was_searched(made: Path, unread: Path) -> None:
    journal = Journal(made / "made")
    study, best = journal.study(), journal.trials()[0]
    searches = list(opponents(study, best).values())
    settings = confirmations(study, [best], top=1, seeds=2)
    again = [replace(best, number=10 + i, seed=s.seed, kind="confirm", label=s.label) for i, s in enumerate(settings)]
    trials = [*journal.trials(), *again]
    searched = {row.label: [t.number for t in row.trials] for row in verb.entries(study, best, trials)}
    fresh = {row.label: [t.number for t in row.trials] for row in verb.entries(study, best, trials, fresh=True)}
    assert searched["joint (best trial)"] == [0]
    assert fresh["joint (best trial)"] == [10, 11]
    assert fresh[searches[1].label] == searched[searches[1].label] == [2]


def test_an_opponent_without_a_result_has_no_row_and_that_is_said(made: Path) -> None:
    journal = Journal(made / "made")
    study, best = journal.study(), journal.trials()[0]
    broken = [replace(t, state="failed", metrics={}) if t.label == "plain LoRA" else t for t in journal.trials()]
    rows = verb.entries(study, best, broken)
    assert [row.label for row in rows] == ["architecture-only", "static adapter", "joint (best trial)"]
    assert verb._unmeasured(study, best, rows) == ["plain LoRA has no row: none of its trials ended with a result"]


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.5, "that nothing was chosen on"), (1.0, "on which settings and checkpoints were chosen too")],
)
def test_a_title_says_whether_anything_was_chosen_on_its_questions(share: float, said: str) -> None:
    study = a_study(experiment={"run": {"steps": 20, "validation": {"choosing_share": share}}})
    rows = [Row("joint (best trial)", Interval(0.5, 0.1, 0.9, 2), None)]
    assert f"2 validation questions {said}, seed" in comparison_title(study, rows, a_trial(0, 0.5))
