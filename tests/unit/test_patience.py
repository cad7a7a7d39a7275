"""Tests wait as long as something moves, and no longer than their processes."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import patience
import pytest
from patience import LONGEST_S, STALLED_S, growth, wait_for


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    return made


def test_an_event_is_waited_for_past_any_time_while_something_moves(clock: Clock) -> None:
    steps = itertools.count()
    took = wait_for(lambda: clock.now >= 3 * STALLED_S, "never", progress=lambda: next(steps), every_s=STALLED_S / 2)
    assert took == 3 * STALLED_S


def test_what_stands_still_is_given_up_and_said(clock: Clock) -> None:
    moves = lambda: min(clock.now, 100.0)  # noqa: E731
    with pytest.raises(AssertionError, match=r"(?s)no step came, it printed X.*nothing has moved for 900 s"):
        wait_for(lambda: False, lambda: "no step came, it printed X", progress=moves, every_s=50)
    assert clock.now == 100 + STALLED_S


def test_what_moves_for_nothing_is_given_up_at_last(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="though something moves"):
        wait_for(lambda: False, "never", progress=lambda: clock.now, every_s=100)
    assert clock.now == LONGEST_S


def test_a_process_that_has_ended_is_waited_for_no_longer(clock: Clock) -> None:
    codes = iter([None, None, 3])
    with pytest.raises(AssertionError, match=r"(?s)never halfway.*ended with 3"):
        wait_for(lambda: False, "never halfway", SimpleNamespace(poll=lambda: next(codes)), every_s=1)
    assert clock.now == 2


def test_what_a_process_did_last_counts(clock: Clock) -> None:
    looks = iter([False, True])
    wait_for(lambda: next(looks), "never", SimpleNamespace(poll=lambda: 0))


def test_files_show_progress_by_number_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a")
    now, seen = growth(tmp_path / "log", tmp_path / "runs"), []
    for change in (
        lambda: (tmp_path / "log").write_text("ab"),
        lambda: (tmp_path / "runs" / "s").mkdir(parents=True),
        lambda: (tmp_path / "runs" / "s" / "journal").touch(),
        lambda: (tmp_path / "runs" / "s" / "journal").write_text("x"),
        lambda: (tmp_path / "runs" / "s" / "journal").unlink(),
    ):
        seen.append(now())
        change()
    seen.append(now())
    assert all(one != other for one, other in itertools.pairwise(seen))
    assert now() == seen[-1]
