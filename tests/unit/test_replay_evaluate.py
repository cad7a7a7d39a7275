"""`haps evaluate` on a replay, from trained checkpoints to files: what is read, when, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_sweeps import FRUIT, fruit_study, fruit_table, replay_sweep, train
from sweeps import a_study, a_trial
from typer.testing import CliRunner

from haps_search.cli.display import Terminal
from haps_search.cli.main import app
from haps_search.cli.replay_page import show_judged
from haps_search.cli.sweep_tables import closing, comparison_table, ranking_table
from haps_search.config.references import (
    BestPerTaskReference,
    BestSingleReference,
    KnnReference,
    PerQueryOracleReference,
    ReferencesConfig,
    RidgeReference,
)
from haps_search.errors import ConfigError
from haps_search.evaluation import intervals
from haps_search.evaluation.comparison import comparison
from haps_search.evaluation.replay.asked import asked, measured
from haps_search.records.readings import note_reading, readings
from haps_search.report.build import build, page, shown
from haps_search.report.source import read_sweep
from haps_search.report.verdict import verdict
from haps_search.sweep.journal import Journal
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import choosing, reported
from haps_search.tasks.replay import ReplayTask
from haps_search.types import Question
from haps_search.verbs import judge as verb
from haps_search.verbs.measure import cheap_references
from haps_search.verbs.subject import chosen_settings, find_subject, policy, routers
from haps_search.verbs.sweep import SweepResult
from haps_search.verbs.table import best_label

FEW = ReferencesConfig(
    compared=(
        *(BestSingleReference(), BestPerTaskReference(), KnnReference(neighbours=(5,)), RidgeReference(alpha=(1.0,))),
        PerQueryOracleReference(),
    )
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep `made` of two trials, the best of them confirmed on five folds, in a runs folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAPS_CACHE", str(folder / "cache"))
        replay_sweep(folder / "made", fruit_study(fruit_table(folder / "made.jsonl")), seeds=5)
    return folder


def judge_replay(runs: Path, name: str, split: Any, again: bool) -> verb.Judged:
    """As `haps evaluate` does it, shown."""
    with Terminal() as terminal:
        found = verb.judge_replay(name, split, again, runs, terminal)
    show_judged(terminal, found)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs: Path) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(runs / "cache"))
    monkeypatch.setattr(intervals, "DRAWS", 60)
    monkeypatch.setattr(verb, "ReferencesConfig", lambda: FEW)


def stored(folder: Path) -> Mapping[str, Any]:
    return {name: json.loads((folder / name).read_text()) for name in verb.FILES if (folder / name).exists()}


def rows_of(folder: Path) -> dict[str, Any]:
    return {row["label"]: row for row in stored(folder)["references.json"]["rows"]}


def unread(runs: Path) -> None:
    """As if nothing had been judged yet."""
    for name in ("test-readings.jsonl", *verb.FILES, *(f"validation-{name}" for name in verb.FILES)):
        (runs / "made" / name).unlink(missing_ok=True)


def test_a_sweep_is_judged_on_validation(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unread(runs)
    judge_replay(runs, "made", "validation", again=False)
    rows = rows_of(runs / "made")
    # The made models are right with 0.9 where they should be: the kind of a text is all there is to learn.
    assert rows["router"]["mean"] > 0.75 > rows["best single"]["mean"] + 0.2
    assert rows["best single"]["difference"]["low"] > 0
    assert rows["per-query oracle"]["mean"] >= rows["router"]["mean"]
    said = capsys.readouterr().out
    assert "flattered" not in said
    assert {row["count"] for row in rows.values() if "count" in row} <= {len(reported_there(runs))}
    assert "In mean reward the router" in said
    assert "In AIQ0 the router" in said
    assert "router minus this, AIQ0" in said
    single = rows["best single"]["router minus this, AIQ0"]
    assert f"{single['mean']:+.3f} [{single['low']:+.3f}, {single['high']:+.3f}]" in said
    assert readings(runs / "made") == []


def reported_there(runs: Path) -> list[Question]:
    experiment = fruit_study(runs / "made.jsonl").experiment
    return reported(build_task(experiment.task), experiment, "validation")


def test_a_fold_that_both_chooses_and_is_reported_on_flatters_and_says_so(tmp_path: Path) -> None:
    run = {"steps": 20, "questions_per_step": 64, "validation": {"every": 10, "choosing_share": 1}}
    replay_sweep(tmp_path / "whole", fruit_study(fruit_table(tmp_path / "t.jsonl"), run=run), (0.05,))
    found = judge_replay(tmp_path, "whole", "validation", again=False)
    assert any("its row is flattered" in note for note in found.notes)
    study = fruit_study(tmp_path / "t.jsonl", run=run)
    assert found.judgement.rows[0].reward.count == len(build_task(study.experiment.task).questions("validation"))


def test_a_router_is_as_good_on_questions_it_never_met(runs: Path) -> None:
    """Test texts are read by what was fitted on training texts: wrong features would route by chance, 0.43."""
    unread(runs)
    judge_replay(runs, "made", "test", again=False)
    rows = rows_of(runs / "made")
    assert rows["router"]["mean"] > 0.7
    assert rows["best single"]["difference"]["low"] > 0
    assert rows["best setting, one checkpoint"]["seeds"] == 6
    assert rows["router"]["seeds"] == 1


def test_the_test_split_is_read_once(runs: Path) -> None:
    unread(runs)
    judge_replay(runs, "made", "test", again=False)
    (first,) = readings(runs / "made")
    for name in ("made", "made/1"):
        with pytest.raises(ConfigError, match=f"was read on {first.when}.*--again"):
            judge_replay(runs, name, "test", again=False)
    assert len(readings(runs / "made")) == 1


def test_what_the_test_split_gave_stays(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A later look at validation stands beside it, and another one replaces that."""
    unread(runs)
    judge_replay(runs, "made", "validation", again=False)
    capsys.readouterr()
    judge_replay(runs, "made", "test", again=False)
    assert "made: references.json, " in capsys.readouterr().out
    before = stored(runs / "made")
    assert before["references.json"]["split"] == "test"
    for _ in range(2):
        judge_replay(runs, "made", "validation", again=False)
        assert stored(runs / "made") == before
        beside = json.loads((runs / "made" / "validation-references.json").read_text())
        assert beside["split"] == "validation"
        assert (runs / "made" / "validation-curve.json").exists()
        said = capsys.readouterr().out
        assert "made: validation-references.json, " in said
        assert "`haps report made` shows the test result, which stays as it is" in said


def test_what_is_next_is_to_confirm(runs: Path) -> None:
    journal = Journal(runs / "made")
    trials = tuple(journal.trials())
    result = SweepResult("made", runs / "made", journal.study(), trials, (), trials[0], None, None)
    said = "\n".join(closing(result, trials[0]))
    assert 0 < said.index("haps confirm made --top 1 --seeds 5") < said.index("haps evaluate made --split test")
    assert "haps ask" not in said, "models of a table answer nothing new"


def test_the_best_trial_is_called_by_what_its_router_decides(runs: Path) -> None:
    journal = Journal(runs / "made")
    assert best_label(journal.study(), journal.trials()[0]) == "architecture-only (best trial)"
    assert best_label(a_study(), a_trial(0)) == "joint (best trial)"
    best = "architecture-only (best trial)"
    rows = comparison({}, {"kNN": (0.0, 1.0), best: (1.0, 1.0)}, best)
    assert [column.header for column in comparison_table(rows).columns][-1] == "architecture-only minus this"


def test_small_costs_show_three_digits() -> None:
    study = a_study(objectives=[{"metric": "validation_reward"}, {"metric": "validation_cost", "mode": "min"}])
    trial = a_trial(0, metrics={"validation_reward": 0.51234, "validation_cost": 0.00123456})
    cells = [list(column.cells) for column in ranking_table(study, [trial], [trial]).columns]
    assert cells[2:4] == [["0.512"], ["0.00123"]]
    assert [shown(value) for value in (0.012345, 0.00123456, 0.512345)] == ["0.0123", "0.00123", "0.512"]


def test_questions_that_no_candidate_answered_are_left_out_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every fold and split; the sweep is judged as if they were not in the table."""
    table = fruit_table(tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    unknown = [
        {**line, "id": f"x{i}", "query": f"{line['query']} again", "scores": {**dict.fromkeys(FRUIT), "fig": 1.0}}
        for i, line in enumerate(lines[:60])
    ]
    whole = [{**line, "scores": {**line["scores"], "fig": 1.0}} for line in lines]
    table.write_text("".join(json.dumps(line) + "\n" for line in [*whole, *unknown]))
    task = {"type": "replay", "table": {"file": str(table), "layout": {"type": "routerbench"}, "missing": "keep"}}
    replay_sweep(tmp_path / "wide", fruit_study(table, task=task), (0.05,), seeds=5)
    subject = find_subject(tmp_path, "wide")
    twice = replace(subject, settings=(subject.settings[0], replace(subject.settings[0], label="twin")))
    (there,) = asked(subject.experiment, [subject.experiment], "validation")
    chosen = chosen_settings(twice)
    assert chosen.folds == 5
    assert chosen.validation is not None
    assert chosen.validation > 0.7
    assert not any(question.id.startswith("x") for question in there.questions)
    judge_replay(tmp_path, "wide", "test", again=False)
    assert f"{there.left_out} validation questions" not in capsys.readouterr().out
    judge_replay(tmp_path, "wide", "validation", again=False)
    assert f"{there.left_out} validation questions that no candidate answered are left out" in capsys.readouterr().out
    own = reported(build_task(subject.experiment.task), subject.experiment, "validation")
    assert {question.id for question in own} < {question.id for question in there.questions}
    assert len(cheap_references(subject.experiment)["kNN"]) == len(own)


def test_another_reading_is_written_down_and_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unread(runs)
    note_reading(runs / "made", "made, 1 settings", again=False)
    judge_replay(runs, "made", "test", again=True)
    assert "the test split was read 1 times before" in capsys.readouterr().out
    assert [reading.judged for reading in readings(runs / "made")] == ["made, 1 settings"] * 2


def test_a_refused_reading_reads_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unread(runs)
    note_reading(runs / "made", "made", again=False)
    read: list[str] = []
    rows = ReplayTask.rows
    monkeypatch.setattr(ReplayTask, "rows", lambda self, split: read.append(split) or rows(self, split))
    with pytest.raises(ConfigError):
        judge_replay(runs, "made", "test", again=False)
    assert read
    assert "test" not in read


def test_test_rewards_change_nothing_but_what_is_measured(runs: Path, tmp_path: Path) -> None:
    """The same table with its test rewards turned round: every choice and score stays, every measurement changes."""
    study = fruit_study(runs / "made.jsonl")
    task = build_task(study.experiment.task)
    assert isinstance(task, ReplayTask)
    hidden = {task.table.questions[row].id for row in task.rows("test")}
    lies = tmp_path / "lies.jsonl"
    lines = [json.loads(line) for line in (runs / "made.jsonl").read_text().splitlines()]
    for line in lines:
        if line["id"] in hidden:
            line["scores"] = {model: 1 - score for model, score in line["scores"].items()}
    lies.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lied = fruit_study(lies).experiment

    for split in ("validation", "test"):
        told, believed = (measured(asked(e, [e], split), FEW) for e in (study.experiment, lied))
        for one, other in zip(told, believed, strict=True):
            assert (one.validation, one.settings) == (other.validation, other.settings)
            if one.reachable:
                np.testing.assert_array_equal(one.scores, other.scores)
            assert np.array_equal(one.rewards, other.rewards) == (split == "validation")


def test_references_learn_from_all_that_is_not_judged(runs: Path) -> None:
    experiment = fruit_study(runs / "made.jsonl").experiment
    (validation,), (test,) = (asked(experiment, [experiment], split) for split in ("validation", "test"))
    assert len(test.train) == len(validation.train) + len(validation.test)
    assert len(test.train) + len(test.test) == 240
    assert sorted(set(validation.folds.tolist())) == [1, 2, 3, 4]
    assert sorted(set(test.folds.tolist())) == [0, 1, 2, 3, 4]


def test_each_way_to_read_the_questions_is_tried_once(runs: Path) -> None:
    one = fruit_study(runs / "made.jsonl").experiment
    other = one.model_copy(update={"task": one.task.model_copy(update={"task_name": True})})
    found = asked(one, [one, other, one], "validation")
    assert len(found) == 2
    assert found[1].questions[0].text.startswith("Task: ")


def test_on_validation_nobody_is_asked_who_trained_on_it(runs: Path) -> None:
    subject = find_subject(runs, "made")
    (asked_there,) = asked(subject.experiment, [subject.experiment], "validation")
    found = routers(subject, "validation", asked_there.questions, subject.settings[:1])
    # The searched run and the fifth confirming seed stand on the search's fold.
    assert len(found["router"]) == 2
    assert len(subject.settings[0].confirmed) == 5


def test_settings_that_went_through_no_folds_are_compared_on_the_searchs_own(runs: Path) -> None:
    subject = find_subject(runs, "made")
    (everything,) = asked(subject.experiment, [subject.experiment], "validation")
    choose = {q.id for q in choosing(build_task(subject.experiment.task), subject.experiment)}
    asked_there = everything.only(choose)
    assert 0 < len(asked_there.questions) < len(everything.questions)
    rewards = asked_there.test.rewards
    searched = replace(subject, settings=tuple(replace(setting, confirmed=()) for setting in subject.settings))
    chosen = chosen_settings(searched)
    alone = policy(subject.settings[0].searched, "validation", asked_there.questions, FRUIT)
    earned = (alone.greedy(rewards) * rewards).sum(axis=1).mean()
    assert chosen.validation is not None
    assert chosen.validation >= earned - 1e-12
    assert (len(chosen.settings) in (1, 2), chosen.folds) == (True, 1)


def test_settings_that_went_through_all_folds_are_compared_on_all(tmp_path: Path) -> None:
    """Whatever order the search left them in; each fold by the checkpoints that were not trained on it."""
    replay_sweep(tmp_path / "two", fruit_study(fruit_table(tmp_path / "t.jsonl")), (0.05, 1e-5), seeds=5, top=2)
    subject = find_subject(tmp_path, "two")
    turned = replace(subject, settings=subject.settings[::-1])
    chosen = chosen_settings(turned)
    assert chosen.settings == subject.settings[:1]
    assert chosen.folds == 5
    hits = []
    for run in chosen.settings[0].confirmed:
        task = build_task(run.experiment.task)
        assert isinstance(task, ReplayTask)
        questions = choosing(task, subject.experiment)
        rewards = task.outcomes(questions, FRUIT).rewards
        hits.append((policy(run, "validation", questions, FRUIT).greedy(rewards) * rewards).sum(axis=1))
    assert chosen.validation == pytest.approx(np.concatenate(hits).mean())


def test_a_router_that_reads_the_weight_of_cost_is_asked_at_many(runs: Path, tmp_path: Path) -> None:
    learning = {"signal": "outcomes", "learning_rate": {"high": 0.05}, "cost_conditioned": {"low": 0.01, "high": 2.0}}
    experiment = fruit_study(runs / "made.jsonl", learning=learning).experiment
    train(experiment, tmp_path / "told")
    subject = find_subject(tmp_path, "told")
    (asked_there,) = asked(experiment, [experiment], "validation")
    found = policy(subject.settings[0].searched, "validation", asked_there.questions, FRUIT)
    assert len(found.priced) == 16
    cheap = [found.priced[weight].argmax(axis=1).mean() for weight in (min(found.priced), max(found.priced))]
    # Apple, the first, is the cheapest.
    assert cheap[1] < cheap[0]


def test_cheap_references_stand_beside_the_best_trial(runs: Path) -> None:
    experiment = fruit_study(runs / "made.jsonl").experiment
    found = cheap_references(experiment)
    assert list(found) == [
        "cheapest", "random", "best single", "best per task", "kNN", "ridge", "per-query oracle",
    ]  # fmt: skip
    assert {len(values) for values in found.values()} == {len(reported_there(runs))}


def test_without_costs_and_for_a_single_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = fruit_table(tmp_path / "free.jsonl", costs=False)
    train(fruit_study(table, costs=False).experiment, tmp_path / "alone")
    (tmp_path / "alone" / "curve.json").write_text("{}")
    judge_replay(tmp_path, "alone", "validation", again=False)
    assert set(stored(tmp_path / "alone")) == {"references.json", "tasks.json", "calibration.json"}
    assert "AIQ" not in capsys.readouterr().out


def test_the_report_shows_all_of_it(runs: Path) -> None:
    judge_replay(runs, "made", "validation", again=False)
    report = build(read_sweep(Journal(runs / "made")))
    sections = {section.id: section for section in report.sections}
    assert {"comparison", "curve", "tasks", "routes", "calibration"} <= set(sections)
    assert [key.label for key in sections["curve"].figures[0].keys][1].endswith("the best reference")
    assert {table.name for table in report.tables} >= {"references", "curve", "hulls", "tasks", "routes", "calibration"}
    rows = rows_of(runs / "made")
    (table,) = (table for table in report.tables if table.name == "references")
    shown = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (shown["row"], shown["mean"]) == ("router", rows["router"]["mean"])
    assert any(line.startswith("In AIQ0 it ") for line in report.verdict)
    assert "<svg" in page(report)


def test_no_form_of_the_router_is_its_rival(runs: Path) -> None:
    judge_replay(runs, "made", "validation", again=False)
    file = runs / "made" / "references.json"
    kept = json.loads(file.read_text())
    for row in kept["rows"]:
        row["mean"] = {"best setting, one checkpoint": 3.0, "per-query oracle": 2.0, "ridge": 1.0}.get(
            row["label"], 0.5
        )
    file.write_text(json.dumps(kept))
    said = [line for line in verdict(read_sweep(Journal(runs / "made"))) if "the best row beside it" in line]
    assert len(said) == 1
    assert "ridge, the best row beside it (1.000)" in said[0]


def test_readings_survive_a_torn_line(tmp_path: Path) -> None:
    note_reading(tmp_path, "one", again=False)
    with (tmp_path / "test-readings.jsonl").open("a") as file:
        file.write('{"time": 17')
    note_reading(tmp_path, "two", again=True)
    assert [reading.judged for reading in readings(tmp_path)] == ["one", "two"]


def test_the_verb_judges_a_replay(runs: Path) -> None:
    unread(runs)
    plain = CliRunner().invoke(app, ["evaluate", "made", "--runs", str(runs)], catch_exceptions=False)
    assert f"validation split, {len(reported_there(runs))} questions" in plain.stdout
    note_reading(runs / "made", "made", again=False)
    refused = CliRunner().invoke(app, ["evaluate", "made", "--split", "test", "--runs", str(runs)])
    assert isinstance(refused.exception, ConfigError)
    again = CliRunner().invoke(app, ["evaluate", "made", "--split", "test", "--again", "--runs", str(runs)])
    assert "test split, 49 questions" in again.stdout
