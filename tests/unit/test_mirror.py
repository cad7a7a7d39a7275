"""Every record reaches the tracker once, however often the tracker fails or the driver is killed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sweeps import a_study, a_trial, write

from haps_search.errors import TrackerError
from haps_search.records.jsonl import JsonlTracker
from haps_search.records.tracker import Record, Status, StepGate
from haps_search.sweep.events import TrialEnded
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.mirror import Mirror

Fails = Callable[[], bool]


@dataclass
class Store:
    """What outlives drivers: per trial the records that arrived, and how it ended."""

    fails: Fails = lambda: False
    kept: dict[str, list[Record]] = field(default_factory=dict)
    parameters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ended: dict[str, tuple[Status, Mapping[str, float]]] = field(default_factory=dict)
    finishes: Counter[str] = field(default_factory=Counter)

    def open(self, trial: str, parameters: Mapping[str, Any]) -> FakeTracker:
        if self.fails():
            raise TrackerError("the store is away")
        self.parameters[trial] = parameters
        return FakeTracker(self, trial)

    def steps(self, trial: str) -> list[int]:
        return [record.step for record in self.kept.get(trial, [])]


class FakeTracker:
    """A tracker as MLflow's: what the store does not take waits in memory and is tried at the next call."""

    def __init__(self, store: Store, trial: str) -> None:
        self._store, self._trial = store, trial
        self._kept = store.kept.setdefault(trial, [])
        self._gate = StepGate(self.last_step)
        self._pending: list[Record] = []

    @property
    def last_step(self) -> int:
        return max((record.step for record in self._kept), default=-1)

    @property
    def missed(self) -> int:
        return len(self._pending)

    def log_many(self, records: list[Record]) -> None:
        self._pending += [r for r in records if self._gate.admit(r.step)]
        while self._pending and not self._store.fails():
            self._kept.append(self._pending.pop(0))

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None:
        self.log_many([])
        self._store.finishes[self._trial] += 1
        self._store.ended[self._trial] = status, summary


class WaitingTracker(FakeTracker):
    """Asks a store that failed no more before its end, as MLflow's does for a while."""

    def log_many(self, records: list[Record]) -> None:
        self._pending += [r for r in records if self._gate.admit(r.step)]

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None:
        super().log_many([])
        super().finish(status, summary)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_sweep(tmp_path / "tiny", a_study(), resume=False)
    yield opened
    opened.close()


def run_of(journal: Journal, number: int) -> JsonlTracker:
    return JsonlTracker(trial_folder(journal.folder, number) / "metrics.jsonl")


def test_what_is_new_is_sent_with_its_time(journal: Journal) -> None:
    store, run = Store(), run_of(journal, 0)
    write(journal, a_trial(0, state="running", parameters={"run.steps": 8}, label="static adapter"))
    mirror = Mirror(journal, store.open)
    run.log_many([Record(1, {"reward": 0.5, "loss": math.inf}, 100.0)])
    mirror.tick()
    run.log_many([Record(2, {"reward": 0.6}, 101.5)])
    mirror.tick()
    mirror.tick()
    assert store.kept["000"] == [Record(1, {"reward": 0.5, "loss": math.inf}, 100.0), Record(2, {"reward": 0.6}, 101.5)]
    assert store.parameters["000"] == {"run.steps": 8, "kind": "search", "label": "static adapter", "seed": 11}


def test_a_trial_that_has_not_begun_has_no_tracker_yet(journal: Journal) -> None:
    store = Store()
    write(journal, a_trial(0, state="suggested", attempts=0))
    Mirror(journal, store.open).tick()
    assert store.parameters == {}


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_a_trial_that_ended_is_closed_once_after_its_last_record(journal: Journal, state: Any) -> None:
    store = Store()
    run_of(journal, 0).log(1, {"reward": 0.5})
    write(journal, a_trial(0, 0.9, state=state))
    mirror = Mirror(journal, store.open)
    mirror.tick()
    mirror.tick()
    assert store.steps("000") == [1]
    assert store.ended == {"000": (state, {"validation_reward": 0.9})}
    assert store.finishes["000"] == 1


def test_steps_that_a_resumed_run_repeats_are_not_sent_again(journal: Journal) -> None:
    store, run = Store(), run_of(journal, 0)
    write(journal, a_trial(0, state="running"))
    mirror = Mirror(journal, store.open)
    for step in (1, 2, 3):
        run.log(step, {"reward": 0.1})
    mirror.tick()
    run.truncate_after(1)
    for step in (2, 3, 4):
        run.log(step, {"reward": 0.1})
        mirror.tick()
    assert store.steps("000") == [1, 2, 3, 4]


def test_a_new_driver_sends_what_the_last_one_did_not(journal: Journal) -> None:
    store, run = Store(), run_of(journal, 0)
    write(journal, a_trial(0, state="running"))
    run.log(1, {"reward": 0.1})
    Mirror(journal, store.open).tick()
    run.log(2, {"reward": 0.2})
    Mirror(journal, store.open).tick()
    assert store.steps("000") == [1, 2]


def test_a_tracker_that_is_away_when_its_trial_ends_gets_the_rest_later(journal: Journal) -> None:
    away = True
    store = Store(fails=lambda: False)
    write(journal, a_trial(0, state="running"))
    mirror = Mirror(journal, store.open)
    mirror.tick()
    store.fails = lambda: away
    run_of(journal, 0).log(1, {"reward": 0.1})
    journal.append(TrialEnded(0, "finished", {"validation_reward": 0.9}))
    for _ in range(3):
        mirror.tick()
    assert mirror.missed == 1
    assert store.finishes["000"] == 1, "a store that is away was asked again and again"
    away = False
    mirror.tick()
    assert mirror.missed == 0
    assert store.steps("000") == [1]
    assert store.ended["000"][0] == "finished"


def test_the_last_tick_asks_a_tracker_that_waits_and_says_what_it_did_not_take(journal: Journal) -> None:
    store = Store()
    write(journal, a_trial(0, state="running"))
    mirror = Mirror(journal, lambda trial, parameters: WaitingTracker(store, trial))
    run_of(journal, 0).log(1, {"reward": 0.1})
    journal.append(TrialEnded(0, "finished", {"validation_reward": 0.9}))
    store.fails = lambda: True
    assert not mirror.tick()
    assert not mirror.tick(last=True)
    store.fails = lambda: False
    assert not mirror.tick(), "the tracker waits, and the mirror says that all is there"
    assert mirror.tick(last=True)
    assert store.steps("000") == [1]


def test_a_tracker_that_cannot_be_opened_holds_up_no_other_trial(journal: Journal) -> None:
    store = Store()
    write(journal, a_trial(0, state="running"), a_trial(1, state="running"))
    for number in (0, 1):
        run_of(journal, number).log(1, {"reward": 0.1})
    answers = iter([True, False, False])
    store.fails = lambda: next(answers, False)
    mirror = Mirror(journal, store.open)
    mirror.tick()
    assert (store.steps("000"), store.steps("001")) == ([], [1])
    mirror.tick()
    assert store.steps("000") == [1]


@pytest.mark.parametrize("seed", range(5))
def test_with_a_failing_store_and_killed_drivers_every_record_arrives_once(journal: Journal, seed: int) -> None:
    chance = random.Random(seed)
    store = Store(fails=lambda: chance.random() < 0.3)
    write(journal, *(a_trial(n, state="running") for n in range(3)))
    runs = [run_of(journal, n) for n in range(3)]
    at, mirror = [0, 0, 0], Mirror(journal, store.open)
    while min(at) < 30:
        number = chance.randrange(3)
        fate = chance.random()
        if fate < 0.1:
            mirror = Mirror(journal, store.open)  # the driver was killed
        elif fate < 0.2:
            at[number] = chance.randrange(max(at[number] - 3, 0), at[number] + 1)
            runs[number].truncate_after(at[number])  # the trial was
        elif fate < 0.5:
            mirror.tick()
        elif at[number] < 30:
            at[number] += 1
            runs[number].log(at[number], {"reward": at[number] / 10})
            if at[number] == 30:
                journal.append(TrialEnded(number, "finished", {"validation_reward": 0.5}))
    store.fails = lambda: False
    mirror.tick()
    for name in ("000", "001", "002"):
        assert store.steps(name) == list(range(1, 31))
        assert [r.metrics["reward"] for r in store.kept[name]] == [step / 10 for step in range(1, 31)]
        assert store.ended[name] == ("finished", {"validation_reward": 0.5})
    assert mirror.missed == 0
