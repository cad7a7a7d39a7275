"""Settings that are wanted without being searched for, and where trials lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import a_study, a_trial

from haps_search.config.routing import GeneratedLowLevel
from haps_search.errors import ConfigError
from haps_search.sweep.events import TrialEnded, stopped, written_ending
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.settings import (
    Setting,
    confirmations,
    experiment_of,
    missing,
)

SEARCHED = {
    "learning.learning_rate.high": 0.003,
    "routing.low_level.hidden": [32],
    "routing.low_level.max_relative_norm": 0.7,
}


def test_a_trial_runs_its_parameters_over_the_study_under_its_own_seed() -> None:
    experiment = experiment_of(a_study(), a_trial(0, parameters=SEARCHED, seed=5))
    low = experiment.routing.low_level
    assert isinstance(low, GeneratedLowLevel)
    assert low.hidden == (32,)
    assert experiment.learning.learning_rate.high == 0.003
    assert experiment.run.seed == 5
    assert experiment.run.steps == 20


def test_confirmations_run_the_best_settings_on_the_same_fresh_seeds() -> None:
    best = [a_trial(4, 0.9, parameters=SEARCHED), a_trial(1, 0.8), a_trial(0, 0.1)]
    settings = confirmations(a_study(), best, top=2, seeds=3)
    assert [(s.label, s.kind) for s in settings] == [("trial 4", "confirm")] * 3 + [("trial 1", "confirm")] * 3
    assert settings[0].parameters == SEARCHED
    seeds = [s.seed for s in settings]
    assert seeds[:3] == seeds[3:]
    assert len({*seeds, 11}) == 4, "seeds repeat, or one was searched with"
    assert [s.seed for s in confirmations(a_study(), best, top=1, seeds=2)] == seeds[:2]


def test_fewer_finished_trials_than_asked_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 finished trials, 2 asked for"):
        confirmations(a_study(), [a_trial(0, 0.9)], top=2, seeds=1)


def test_what_the_journal_already_has_is_not_missing() -> None:
    setting = Setting({"run.steps": 10}, 3, "confirm", "trial 1")
    there = a_trial(5, parameters={"run.steps": 10}, seed=3, kind="confirm", label="trial 1", state="suggested")
    assert missing([setting], [there]) == []
    for other in (
        a_trial(5, parameters={"run.steps": 11}, seed=3, kind="confirm", label="trial 1"),
        a_trial(5, parameters={"run.steps": 10}, seed=4, kind="confirm", label="trial 1"),
        a_trial(5, parameters={"run.steps": 10}, seed=3, kind="search", label="trial 1"),
        a_trial(5, parameters={"run.steps": 10}, seed=3, kind="confirm", label="trial 2"),
    ):
        assert missing([setting], [other]) == [setting]


def test_trials_lie_in_numbered_folders() -> None:
    assert trial_folder(Path("runs/s"), 7) == Path("runs/s/trials/007")
    assert trial_folder(Path("runs/s"), 1234) == Path("runs/s/trials/1234")


def test_a_run_that_could_go_on_has_no_ending(tmp_path: Path) -> None:
    assert written_ending(0, tmp_path) is None
    assert written_ending(0, tmp_path / "never begun") is None


def test_a_run_that_finished_says_so_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"reason": "patience", "metrics": {"validation_reward": 0.5}}')
    (tmp_path / "error.json").write_text('{"kind": "Diverged", "message": "of an earlier attempt"}')
    assert written_ending(4, tmp_path) == TrialEnded(4, "finished", {"validation_reward": 0.5})


def test_a_run_that_broke_for_good_says_why(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text('{"kind": "Diverged", "message": "loss is nan"}')
    assert written_ending(4, tmp_path) == TrialEnded(4, "failed", error="Diverged: loss is nan")


def test_a_stopped_trial_keeps_its_last_report() -> None:
    assert stopped(4, {"validation_reward": 0.2}) == TrialEnded(4, "stopped", {"validation_reward": 0.2})
