"""What a driver does between the searches: go on, leave with a way out, or pick the best. No Ray is started."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RaySystemError
from ray.tune import TuneError
from sweeps import a_study, a_trial, write

from haps_search.config.engines import ClusterProfile
from haps_search.config.sweep import Study
from haps_search.engines.cluster.session import Session, TableSession
from haps_search.errors import CandidateError, ConfigError, HapsError, Kind, PoolError, Unfinished
from haps_search.faults.policy import Failures
from haps_search.sweep import leaving as leaving_module
from haps_search.sweep import tune
from haps_search.sweep.events import SweepEnded, TrialEnded
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.leaving import HOURS, SIGTERM, STATUS, ready_to_leave, unfinished
from haps_search.sweep.settings import Setting
from haps_search.sweep.tune import Left
from haps_search.verbs import driver as drive
from haps_search.verbs.confirm import run_settings
from haps_search.verbs.driver import Driver, profile_of
from haps_search.verbs.events import silent
from haps_search.verbs.sweep import best_trial
from haps_search.verbs.tracking import Tracking

STUDY = a_study(trials=2)


class Live:
    """A session that knows how its pool is, and waits for nothing."""

    def __init__(self, ended: str | None = None) -> None:
        self.gone = ended

    def ended_by(self) -> str | None:
        return self.gone

    def waits(self) -> tuple[str, ...]:
        return ()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_sweep(tmp_path / "tiny", STUDY, resume=False)
    yield opened
    opened.close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(drive, "paused", lambda seconds, folder: pauses.append(seconds) or "")
    monkeypatch.setattr(drive.ray, "is_initialized", lambda: False)  # other tests' Ray may run in this process
    return pauses


def a_driver(journal: Journal, ended: str | None = None, deadline: float | None = None) -> Driver:
    live: Any = Live(ended)
    return Driver(silent, journal, STUDY, live, Tracking(None, ()), deadline)


def test_a_driver_goes_on_when_all_trials_of_the_kind_have_ended(journal: Journal) -> None:
    write(journal, a_trial(0, 0.5), a_trial(1, state="failed"), a_trial(2, 0.1, state="stopped"))
    a_driver(journal, deadline=time.monotonic() - 1).finish_or_leave("search", Left())


@pytest.mark.parametrize("state", ["suggested", "running"])
def test_a_driver_leaves_with_the_machines_reason_and_the_way_out(journal: Journal, state: Any) -> None:
    write(journal, a_trial(0, 0.5), a_trial(1, state=state), a_trial(2, state=state))
    with pytest.raises(PoolError) as caught:
        a_driver(journal, ended="worker llama/0 died 6 times").finish_or_leave("search", Left())
    assert str(caught.value) == (
        "trials [1, 2] were interrupted (worker llama/0 died 6 times); "
        f"see {journal.folder / 'logs'}, then `haps resume tiny`"
    )


def test_a_pool_that_stands_lost_its_trials_processes(journal: Journal) -> None:
    write(journal, a_trial(0, state="running"))
    with pytest.raises(PoolError, match="their processes were lost"):
        a_driver(journal, deadline=time.monotonic() + 60).finish_or_leave("search", Left())
    with pytest.raises(PoolError, match=r"were interrupted \(candidate a: 3 attempts failed: the store is full\); see"):
        a_driver(journal).finish_or_leave("search", Left(reason="candidate a: 3 attempts failed: the store is full"))


def test_a_driver_whose_time_is_over_says_that_and_not_the_machines(journal: Journal) -> None:
    write(journal, a_trial(0, state="running"))
    journal.leave(HOURS)
    with pytest.raises(Unfinished, match=r"--max-hours is over; trials \[0\] are saved: `haps resume tiny` goes on"):
        a_driver(journal, ended="whatever").finish_or_leave("search", Left())


def test_trials_that_nobody_began_are_no_end_of_a_sweep(journal: Journal) -> None:
    write(journal, a_trial(0, 0.5))
    journal.leave(HOURS)
    with pytest.raises(Unfinished, match="over; all trials that were begun have ended and 3 were not begun: `haps res"):
        a_driver(journal).finish_or_leave("search", Left(unbegun=3))


def test_an_interrupted_confirmation_does_not_hold_up_a_resume_nor_the_other_way_round(journal: Journal) -> None:
    write(journal, a_trial(0, 0.5), a_trial(1, kind="confirm", state="running"))
    a_driver(journal).finish_or_leave("search", Left())
    a_driver(journal).finish_or_leave("comparison", Left())
    with pytest.raises(PoolError, match=r"trials \[1\].*`haps confirm tiny`"):
        a_driver(journal).finish_or_leave("confirm", Left())


def test_a_clock_set_back_does_not_prolong_a_sweep(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its deadline trials are asked to leave, and after their grace ended."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    search: Any = SimpleNamespace(problem=None)
    session = Session("haps-s", ClusterProfile(name="t", grace_s=50.0), broker=None)
    ends = tune._Ends(session, search, journal, time.monotonic() + 100)
    assert not ends.stop_all()
    assert not journal.leaving
    passed = time.monotonic()
    for seconds, leaving, over in ((99, False, False), (101, True, False), (150, True, False), (152, True, True)):
        monkeypatch.setattr(tune.time, "monotonic", lambda seconds=seconds: passed + seconds)
        assert (ends.stop_all(), journal.leaving) == (over, leaving)
    assert journal.why == HOURS


def test_a_driver_that_is_to_leave_begins_nothing_more(journal: Journal) -> None:
    d = a_driver(journal)
    d.go_on()
    journal.leave(SIGTERM)
    with pytest.raises(
        Unfinished, match=r"asked to leave \(SIGTERM\); what is done is kept: `haps resume tiny` goes on"
    ):
        d.go_on()


def test_the_best_trial_is_the_first_of_the_ranking(journal: Journal) -> None:
    write(journal, a_trial(0, 0.2), a_trial(1, 0.7), a_trial(2, 0.9, kind="comparison"))
    assert best_trial(journal, STUDY).number == 1


def test_without_a_result_the_first_reason_is_said(journal: Journal) -> None:
    write(
        journal,
        a_trial(0, state="failed", error="CandidateError: no such folder"),
        a_trial(1, state="failed", error="Diverged: nan"),
    )
    with pytest.raises(PoolError, match=r"^no trial of tiny has a result; trial 0: CandidateError: no such folder$"):
        best_trial(journal, STUDY)


def test_without_a_reason_what_is_missing_is_said(journal: Journal) -> None:
    write(journal, a_trial(0, math.nan), a_trial(1, None, state="stopped"))
    with pytest.raises(PoolError, match=r"has a result; none ended with a finite validation_reward$"):
        best_trial(journal, STUDY)


def test_a_sweep_on_the_local_engine_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"got type local; use `type: ray`.*`haps train`"):
        profile_of(a_study(experiment={"engine": {"type": "local"}}))


# Running given settings.

SETTINGS = [Setting({"run.steps": 5}, seed, "confirm", "trial 0") for seed in (3, 4)]
Fit = Callable[..., None]


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """`run_settings` with trials that end at once; returns what was asked to run."""
    asked: list[Setting] = []

    @contextmanager
    def driver(
        study: Study, folder: Path, resume: bool, report: Any, prior: Any = None, deadline: Any = None
    ) -> Iterator[Driver]:
        opened = open_sweep(folder, study, resume)
        try:
            yield a_driver(opened)
        finally:
            opened.close()

    def fit(journal: Journal, study: Study, live: Any, kind: str, wanted: list[Setting], left: float | None) -> Left:
        asked.extend(wanted)
        number = len(journal.trials())
        for n, s in enumerate(wanted, start=number):
            write(journal, a_trial(n, s.seed / 10, parameters=s.parameters, seed=s.seed, kind=s.kind, label=s.label))
        return Left()

    monkeypatch.setattr(drive, "driver", driver)
    monkeypatch.setattr(drive, "fit", fit)
    return asked


def test_settings_that_are_there_already_are_not_run_again(journal: Journal, without_ray: list[Setting]) -> None:
    done = SETTINGS[0]
    write(
        journal,
        a_trial(0, 0.9, parameters=done.parameters, seed=3),
        a_trial(1, 0.8, parameters=done.parameters, seed=3, kind="confirm", label="trial 0"),
        a_trial(2, 0.7, parameters=done.parameters, seed=3, kind="confirm", label="trial 1"),
        a_trial(3, 0.6, parameters=done.parameters, seed=9, kind="confirm", label="trial 0"),
    )
    journal.close()
    found = run_settings(STUDY, journal.folder, SETTINGS, silent)
    assert without_ray == [SETTINGS[1]]
    assert [(t.number, t.seed, t.metrics["validation_reward"]) for t in found] == [(1, 3, 0.8), (4, 4, 0.4)]


def test_a_sweep_that_had_ended_has_ended_after_its_confirmation(journal: Journal, without_ray: list[Setting]) -> None:
    write(journal, a_trial(0, 0.9))
    journal.append(SweepEnded("all trials ended", 1.0))
    journal.close()
    run_settings(STUDY, journal.folder, SETTINGS, silent)
    ended = journal.ended()
    assert ended is not None
    assert ended.reason == "all trials ended"


def test_a_sweep_that_goes_on_is_not_ended_by_a_confirmation(journal: Journal, without_ray: list[Setting]) -> None:
    write(journal, a_trial(0, 0.9), a_trial(1, state="running"))
    journal.close()
    run_settings(STUDY, journal.folder, SETTINGS, silent)
    assert journal.ended() is None


def test_an_interrupted_confirmation_is_said_to_be_one(
    journal: Journal, without_ray: list[Setting], monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    soon = ClusterProfile.model_validate({"name": "t", "retries": {"within_s": 1e-9}})
    monkeypatch.setattr(drive, "profile_of", lambda study: soon)

    def interrupted(journal: Journal, study: Study, live: Any, kind: str, wanted: list[Setting], left: Any) -> Left:
        write(journal, a_trial(1, state="running", kind="confirm", seed=3, label="trial 0"))
        return Left()

    monkeypatch.setattr(drive, "fit", interrupted)
    write(journal, a_trial(0, 0.9))
    journal.append(TrialEnded(0, "finished"))
    journal.close()
    with pytest.raises(PoolError, match="then `haps confirm tiny`"):
        run_settings(STUDY, journal.folder, SETTINGS, silent)


# Leaving.


def test_a_driver_that_was_asked_to_leave_says_so_and_never_goes_on_to_the_next_search(journal: Journal) -> None:
    write(journal, a_trial(0, 0.5), a_trial(1, state="running"))
    journal.leave(SIGTERM)
    with pytest.raises(
        Unfinished, match=r"asked to leave \(SIGTERM\); trials \[1\] are saved: `haps resume tiny` goes"
    ):
        a_driver(journal, ended="whatever", deadline=time.monotonic() - 1).finish_or_leave("search", Left())
    journal.append(TrialEnded(1, "finished"))
    with pytest.raises(PoolError, match="asked to leave"):
        a_driver(journal).finish_or_leave("search", Left())


def test_a_driver_whose_pool_is_gone_does_not_wait_for_it_for_ever(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune waits for what was lost, in a call that has no limit."""
    monkeypatch.setattr(drive, "GONE_S", 0.2)
    monkeypatch.setattr(leaving_module, "SLACK_S", 600.0)
    monkeypatch.setattr("haps_search.verbs.watching.TICK_S", 0.01)
    lost = threading.Event()
    with (
        pytest.raises(SystemExit) as caught,
        ready_to_leave(journal, journal.folder),
        a_driver(journal, ended="the broker is gone").watched(2),
    ):
        lost.wait()
    assert caught.value.code == STATUS


def test_what_ray_breaks_off_is_left_with_its_reason_and_a_mistake_is_raised(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the driver's own raylet dies, which Tune may meet in any of its calls."""
    session = TableSession("haps-s", ClusterProfile(name="t"), broker=None)
    beneath = TuneError("the trial runner broke")
    beneath.__cause__ = RaySystemError("Broken pipe")
    for error in (beneath, TuneError("a bug")):

        def breaks(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(tune.tune, "Tuner", lambda *_, **__: SimpleNamespace(fit=breaks))
        if error is beneath:
            left = tune.fit(journal, STUDY, session, "search", 2, None)
            assert left == Left(2, "RaySystemError: System error: Broken pipe")
            with pytest.raises(Unfinished, match=r"2 were not begun \(RaySystemError: System error: Broken pipe\)"):
                a_driver(journal).finish_or_leave("search", left)
        else:
            with pytest.raises(TuneError, match="a bug"):
                tune.fit(journal, STUDY, session, "search", 2, None)


# Beginning again.

AWAY = PoolError("the store is away").of_kind(Kind.TRANSIENT)


class Hands:
    """A driver that comes to nothing so often; between, what `progress` does."""

    def __init__(self, journal: Journal, errors: list[Exception]) -> None:
        self.errors, self.begun, self._journal = errors, [], journal  # type: ignore[var-annotated]

    @contextmanager
    def __call__(self, study: Study, folder: Path, resume: bool, *_: Any) -> Iterator[Driver]:
        self.begun.append(resume)
        yield a_driver(self._journal)

    def work(self, d: Driver) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_what_machines_broke_is_begun_again_by_itself(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    said: list[Any] = []
    hands = Hands(journal, [AWAY, Unfinished("the broker is gone"), AWAY])
    monkeypatch.setattr(drive, "driver", hands)
    assert drive.driven(STUDY, journal.folder, False, said.append, hands.work) == "done"
    assert hands.begun == [False, True, True, True]
    assert len(slept) == 3
    assert [one.text.partition("; begun again in")[0] for one in said] == [
        "the store is away", "the broker is gone", "the store is away",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error", [unfinished(SIGTERM, "x"), CandidateError("no such folder"), PoolError("no trial has a result")], ids=repr
)
def test_what_somebody_wants_or_has_to_mend_is_not_begun_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, slept: list[float], error: HapsError
) -> None:
    hands = Hands(journal, [error])
    monkeypatch.setattr(drive, "driver", hands)
    with pytest.raises(type(error)):
        drive.driven(STUDY, journal.folder, False, silent, hands.work)
    assert (hands.begun, slept) == ([False], [])


def test_what_does_not_pass_ends_and_progress_gives_it_its_time_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    now = [0.0]
    monkeypatch.setattr(drive, "Failures", partial(Failures, clock=lambda: now[0]))
    hands = Hands(journal, [AWAY] * 9)

    def work(d: Driver) -> str:
        now[0] += 250.0
        if len(hands.errors) == 6:
            write(journal, a_trial(0, 0.5))
        return hands.work(d)

    monkeypatch.setattr(drive, "driver", hands)
    with pytest.raises(Unfinished, match="the store is away; what is done is saved") as caught:
        drive.driven(STUDY, journal.folder, False, silent, work)
    assert caught.value.status == STATUS
    assert len(hands.begun) == 7, "600 s since the first failure, and again since the progress"
