"""How much an opponent is searched: what a kill left is finished, and no more is begun than it is to get."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeps import a_study, a_trial, write

from haps_search.config.sweep import Study
from haps_search.sweep.events import AttemptStarted, TrialEnded, TrialReported
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.opponents import HIGH, Search, opponents
from haps_search.sweep.suggestions import suggestion
from haps_search.sweep.tune import Left
from haps_search.verbs import driver as drive
from haps_search.verbs.events import silent
from haps_search.verbs.extend import write_down
from haps_search.verbs.second_chance import retry
from haps_search.verbs.sweep import _search_opponents

SPACE = {HIGH: {"type": "log", "low": 3e-4, "high": 2e-3}}
BEST = a_trial(0, 0.9, parameters={HIGH: 1e-3})


class Played:
    """A driver whose trials end at once, after so many seconds by label; what it was asked for stands in `asked`."""

    def __init__(self, journal: Journal, study: Study, seconds: dict[str, float]) -> None:
        self.journal, self.study, self.seconds = journal, study, seconds
        self.asked: list[tuple[str, int]] = []

    def search(self, search: Search, settings: int) -> None:
        self.asked.append((search.label, settings))
        for _ in range(settings):
            number = len(self.journal.trials())
            drawn = suggestion(search.study, search.own(self.journal.trials()), number)
            assert drawn is not None
            setting, took = search.setting(drawn, 0), self.seconds.get(search.label, 1.0)
            begun = a_trial(number, None, parameters=setting.parameters, kind=setting.kind, label=setting.label)
            ended(self.journal, begun, took)


def ended(journal: Journal, trial: Any, seconds: float) -> None:
    write(journal, replace(trial, state="running"))
    if seconds:
        journal.append(TrialReported(trial.number, 5, {"run_seconds": seconds, "validation_reward": 0.5}))
    journal.append(TrialEnded(trial.number, "finished", {"validation_reward": 0.5}))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_sweep(tmp_path / "s", a_study(SPACE), resume=False)


def played(journal: Journal, seconds: dict[str, float] | None = None, **sweep: Any) -> Played:
    driver: Any = Played(journal, a_study(SPACE, **sweep), seconds or {})
    _search_opponents(driver, driver.study, BEST)
    return driver  # type: ignore[no-any-return]


def count(driver: Played) -> dict[str, int]:
    found = opponents(driver.study, BEST)
    return {name: search.begun(driver.journal.trials()) for name, search in found.items()}


def test_each_gets_as_many_trials_as_were_searched(journal: Journal) -> None:
    for number in range(3):
        ended(journal, a_trial(number, parameters={HIGH: 1e-3}), 2.0)
    driver = played(journal, trials=8)
    assert count(driver) == {"architecture_only": 3, "static": 3, "plain_lora": 3}


def test_a_killed_search_goes_on_with_what_it_lacks(journal: Journal) -> None:
    ended(journal, a_trial(0, parameters={HIGH: 1e-3}), 2.0)
    ended(journal, a_trial(1, parameters={HIGH: 1e-3}), 2.0)
    first: Any = Played(journal, a_study(SPACE), {})
    first.search(opponents(a_study(SPACE), BEST)["architecture_only"], 2)
    first.search(opponents(a_study(SPACE), BEST)["static"], 1)
    driver = played(journal)
    assert driver.asked == [("architecture-only", 0), ("static adapter", 1), ("plain LoRA", 2)]
    assert played(journal).asked == [("architecture-only", 0), ("static adapter", 0), ("plain LoRA", 0)]


def test_each_gets_as_many_core_seconds_as_the_search_took(journal: Journal) -> None:
    for number in range(4):
        ended(journal, a_trial(number, parameters={HIGH: 1e-3}), 10.0)
    seconds = {"architecture-only": 5.0, "static adapter": 10.0, "plain LoRA": 40.0}
    driver = played(journal, seconds, opponents={"match": "core_seconds"}, concurrency=1)
    assert count(driver) == {"architecture_only": 8, "static": 4, "plain_lora": 1}


def test_trials_that_take_no_time_because_all_fail_do_not_go_on_for_ever(journal: Journal) -> None:
    ended(journal, a_trial(0, parameters={HIGH: 1e-3}), 10.0)
    driver = played(journal, {"static adapter": 0.0}, opponents={"match": "core_seconds"}, concurrency=2)
    assert count(driver)["static"] == 2


def test_who_says_a_number_gets_that(journal: Journal) -> None:
    ended(journal, a_trial(0, parameters={HIGH: 1e-3}), 10.0)
    own = {"match": "core_seconds", "static": {"trials": 5}}
    assert count(played(journal, opponents=own))["static"] == 5


def _fit(journal: Journal, study: Study, live: Any, kind: str, wanted: int, until: Any, search: Search) -> Left:
    """What is open of a search ends at once."""
    for trial in journal.trials():
        if trial.kind == kind and trial.label == search.label and not trial.ended:
            journal.append(AttemptStarted(trial.number, trial.attempts + 1))
            journal.append(TrialEnded(trial.number, "finished", {"validation_reward": 0.6}))
    return Left()


@pytest.mark.parametrize("opened", ["extended", "retried"])
def test_open_trials_of_several_opponents_do_not_hold_each_other_up(
    opened: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = a_study(SPACE, experiment={"learning": {"schedule": {"type": "constant"}}}, trials=1)
    journal = open_sweep(tmp_path / "s", study, resume=False)
    write(journal, BEST)
    state = "finished" if opened == "extended" else "failed"
    for number, search in enumerate(opponents(study, BEST).values(), start=1):
        drawn = suggestion(search.study, [], number)
        assert drawn is not None
        setting = search.setting(drawn, 0)
        write(
            journal,
            a_trial(number, 0.5, state=state, parameters=setting.parameters, kind="comparison", label=setting.label),
        )
    journal.close()
    if opened == "extended":
        study = write_down(journal, steps=40)
        again = open_sweep(tmp_path / "s", study, resume=True)
        again.append(TrialEnded(0, "finished", {"validation_reward": 0.9}))
    else:
        retry("s", runs=tmp_path)
        again = open_sweep(tmp_path / "s", study, resume=True)
    assert [t.number for t in again.trials() if not t.ended] == [1, 2, 3]
    monkeypatch.setattr(drive, "fit", _fit)
    live: Any = SimpleNamespace(ended_by=lambda: "")
    tracking: Any = None
    _search_opponents(drive.Driver(silent, again, study, live, tracking, None), study, BEST)
    assert all(t.ended for t in again.trials())
