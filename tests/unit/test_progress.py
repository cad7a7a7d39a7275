"""How far a sweep is: from the journal and the runs' own files, while both grow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from judged_sweeps import fruit_study
from sweeps import a_study, a_trial, write

from haps_search.cli.display import plain_line
from haps_search.config.sweep import Study
from haps_search.records.jsonl import JsonlTracker
from haps_search.records.remote import LOOK_S
from haps_search.records.run_folder import RunFolder
from haps_search.sweep import following
from haps_search.sweep.events import AttemptStarted, State, TrialEnded
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.progress import Progress, TrialView, fraction_done, planned_trials, sweeps

STUDY = a_study(trials=4)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = open_sweep(tmp_path / "tiny", STUDY, resume=False)
    yield opened
    opened.close()


def metrics_of(journal: Journal, number: int) -> JsonlTracker:
    return JsonlTracker(trial_folder(journal.folder, number) / "metrics.jsonl")


def step(tracker: JsonlTracker, at: int, **metrics: float) -> None:
    tracker.log(at, {"reward": at / 100, "route_entropy": 1.0, "route_collapse": 0.0, "answer_collapse": 0.0} | metrics)


def only(progress: Progress) -> TrialView:
    (view,) = progress.trials()
    return view


def test_a_trial_that_has_not_reported_shows_no_numbers(journal: Journal) -> None:
    write(journal, a_trial(0, state="running", parameters={"run.steps": 8}))
    view = only(Progress(journal, STUDY))
    assert (view.state, view.step, view.steps) == ("running", 0, 8)
    assert (view.reward, view.validation, view.entropy, view.alarm, view.error) == (None, None, None, "", None)


def test_what_a_trial_does_before_its_first_step_is_shown_until_then(journal: Journal) -> None:
    write(journal, a_trial(0, state="running"))
    progress, folder = Progress(journal, STUDY), RunFolder(trial_folder(journal.folder, 0), STUDY.experiment)
    folder.doing("reading 3,500 questions once", 1435, 3500)
    assert only(progress).doing == "reading 3,500 questions once: 41%"
    assert plain_line([only(progress)], 0.0, None).endswith("000 reading 3,500 questions once: 41%")
    folder.doing("reading 3,500 questions once", 3500, 3500)
    assert only(progress).doing == ""
    folder.doing("reading again", 1, 2)
    step(metrics_of(journal, 0), 1)
    assert only(progress).doing == ""


def test_a_view_follows_the_run_and_keeps_the_last_validation(journal: Journal) -> None:
    write(journal, a_trial(0, state="running"))
    progress, tracker = Progress(journal, STUDY), metrics_of(journal, 0)
    step(tracker, 1, validation_reward=0.4)
    assert only(progress).validation == 0.4
    step(tracker, 2)
    view = only(progress)
    assert (view.step, view.reward, view.validation, view.entropy) == (2, 0.02, 0.4, 1.0)


def test_a_run_that_went_back_to_its_checkpoint_goes_back_here(journal: Journal) -> None:
    write(journal, a_trial(0, state="running"))
    progress, tracker = Progress(journal, STUDY), metrics_of(journal, 0)
    step(tracker, 1)
    step(tracker, 2, validation_reward=0.9)
    assert only(progress).step == 2
    tracker.truncate_after(1)
    view = only(progress)
    assert (view.step, view.validation) == (1, None)


def test_the_end_of_a_trial_outranks_its_last_step(journal: Journal) -> None:
    tracker = metrics_of(journal, 0)
    step(tracker, 1, validation_reward=0.4)
    write(
        journal, a_trial(0, 0.7), a_trial(1, state="failed", error="Diverged: nan", metrics={}, label="static adapter")
    )
    finished, failed = Progress(journal, STUDY).trials()
    assert (finished.validation, finished.state) == (0.7, "finished")
    assert (failed.error, failed.label, failed.state) == ("Diverged: nan", "static adapter", "failed")


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ({"route_collapse": 1.0}, "route collapse"),
        ({"answer_collapse": 1.0}, "answer collapse"),
        ({"route_collapse": 1.0, "answer_collapse": 1.0}, "route collapse, answer collapse"),
    ],
)
def test_alarms_are_shown_while_they_ring(journal: Journal, raised: Mapping[str, float], shown: str) -> None:
    write(journal, a_trial(0, state="running"))
    progress, tracker = Progress(journal, STUDY), metrics_of(journal, 0)
    step(tracker, 1, **raised)
    assert only(progress).alarm == shown
    step(tracker, 2)
    assert only(progress).alarm == ""


def test_trials_that_have_ended_are_looked_for_in_a_store_once_more_and_then_left_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[str, float]] = []

    def looked(folder: Path, every_s: float = 0.0) -> Path:
        looks.append((folder.name, every_s))
        return folder

    monkeypatch.setattr(following, "pulled", looked)
    write(journal, *(a_trial(n, state="running") for n in range(3)))
    progress = Progress(journal, STUDY)
    progress.trials()
    assert looks == [(name, LOOK_S) for name in ("000", "001", "002")]
    journal.append(TrialEnded(0, "finished", {"validation_reward": 0.5}))
    journal.append(TrialEnded(1, "failed", error="no memory"))
    looks.clear()
    for _ in range(3):
        progress.trials()
    assert looks == [("000", 0.0), ("001", 0.0), ("002", LOOK_S), ("002", LOOK_S), ("002", LOOK_S)]
    journal.append(AttemptStarted(1, 2))
    looks.clear()
    progress.trials()
    assert looks == [("001.2", LOOK_S), ("002", LOOK_S)]


def view(state: State, at: int, steps: int = 20) -> TrialView:
    return TrialView(0, "", state, at, steps, None, None, None, "", {}, None)


def test_the_fraction_counts_steps_and_ended_trials_whole() -> None:
    views = [view("running", 5), view("stopped", 8), view("failed", 0, 10), view("suggested", 0)]
    assert fraction_done(views, STUDY, planned=6) == (5 + 20 + 10) / (20 + 20 + 10 + 20 + 2 * 20)


def test_more_trials_than_planned_do_not_count_below_nothing() -> None:
    assert fraction_done([view("finished", 20), view("running", 10)], STUDY, planned=1) == 30 / 40


def test_nothing_planned_is_done() -> None:
    assert fraction_done([], STUDY, planned=0) == 1.0


@pytest.mark.parametrize(("study", "planned"), [(STUDY, 16), (a_study(trials=4, comparison=False), 4)])
def test_the_comparison_is_planned_too(study: Study, planned: int) -> None:
    assert planned_trials(study) == planned


def test_sweeps_are_folders_with_a_journal(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "a-run-of-its-own").mkdir()
    assert sweeps(tmp_path) == ["tiny"]
    assert sweeps(tmp_path / "nowhere") == []


def test_a_replay_plans_its_search_trials_alone() -> None:
    assert planned_trials(fruit_study(Path("table.jsonl"))) == fruit_study(Path("table.jsonl")).sweep.trials
    assert planned_trials(a_study()) == a_study().sweep.trials * 4, "three opponents with as many"
