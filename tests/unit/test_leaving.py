"""Who holds a sweep, and how a driver that is asked to leave lets its trials save."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeps import a_study
from typer.testing import CliRunner

from haps_search.cli import main
from haps_search.cli.main import app
from haps_search.errors import ConfigError, Unfinished
from haps_search.sweep import leaving
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import lock_file, sweep_of, trial_folder
from haps_search.sweep.leaving import (
    ASKED,
    CTRL_C,
    SIGTERM,
    STATUS,
    STOP,
    grace_of,
    paused,
    ready_to_leave,
    unfinished,
)
from haps_search.sweep.lock import Lock, holder, told_to_leave


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_sweep(tmp_path / "tiny", a_study(), resume=False)
    yield opened
    opened.close()


def test_trials_hear_that_their_driver_leaves_and_the_next_driver_does_not_inherit_it(tmp_path: Path) -> None:
    file = lock_file(tmp_path)
    assert not told_to_leave(file)
    first = Lock(file)
    assert not told_to_leave(file)
    first.leave("x")
    assert told_to_leave(lock_file(sweep_of(trial_folder(tmp_path, 3))))
    first.release()
    second = Lock(file)
    assert not told_to_leave(file)
    second.release()


def test_a_lock_names_its_holder_only_while_it_is_held(tmp_path: Path) -> None:
    file = lock_file(tmp_path)
    assert holder(file) is None
    lock = Lock(file)
    held = holder(file)
    assert held is not None
    assert held["pid"] == os.getpid()
    lock.release()
    assert holder(file) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"cannot lock files .* mount it with locks"):
        Lock(lock_file(tmp_path))


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, SIGTERM), (signal.SIGINT, CTRL_C)])
def test_a_signal_tells_the_trials_and_lets_the_body_end_by_itself(
    journal: Journal, number: signal.Signals, why: str
) -> None:
    before = signal.getsignal(number)
    with ready_to_leave(journal, journal.folder):
        os.kill(os.getpid(), number)
        assert journal.leaving
        assert journal.why == why
        assert told_to_leave(lock_file(journal.folder))
    assert signal.getsignal(number) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGALRM])
def test_a_second_sigterm_or_the_end_of_the_grace_ends_the_process(journal: Journal, second: signal.Signals) -> None:
    with ready_to_leave(journal, journal.folder):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), second)
    assert caught.value.code == STATUS == 75


@pytest.mark.parametrize("asked", ["os.kill(os.getpid(), signal.SIGTERM)", "leaving.leave_within(0.1)"])
def test_a_process_that_cannot_even_leave_ends_with_its_status(asked: str, tmp_path: Path) -> None:
    """Whatever holds it: here the last words of somebody who waits for ever."""
    code = (
        "import os, signal, time; from pathlib import Path; from haps_search.sweep import leaving\n"
        "leaving.SLACK_S = 0.1\n"
        f"with leaving.ready_to_leave(leaving.Pause(), Path({str(tmp_path)!r}), grace_s=0.1):\n"
        f"    {asked}\n"
        "    try:\n        time.sleep(10_000)\n"
        "    finally:\n        time.sleep(10_000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == STATUS, ended.stderr
    assert ended.stderr == "unfinished: something stands still; what is done is saved, and the same again goes on\n"


def test_nobody_s_process_is_ended_that_is_not_ready_to_leave() -> None:
    leaving.leave_within(60.0)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_a_limit_that_was_told_before_stays(journal: Journal) -> None:
    with ready_to_leave(journal, journal.folder, grace_s=5.0):
        os.kill(os.getpid(), signal.SIGTERM)
        leaving.leave_within(600.0)
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 5.0 + leaving.SLACK_S


def test_a_second_ctrl_c_is_one(journal: Journal) -> None:
    with ready_to_leave(journal, journal.folder):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_that_ray_took_are_taken_back(journal: Journal) -> None:
    with ready_to_leave(journal, journal.folder) as arm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        arm()
        os.kill(os.getpid(), signal.SIGTERM)
        assert journal.leaving


def test_whoever_stops_a_sweep_by_name_is_told_from_the_machine(journal: Journal) -> None:
    (journal.folder / ASKED).touch()
    with ready_to_leave(journal, journal.folder):  # what a driver before was asked is not this one's
        (journal.folder / ASKED).touch()
        os.kill(os.getpid(), signal.SIGTERM)
    assert journal.why == STOP
    assert [unfinished(why, "x").status for why in (STOP, CTRL_C, SIGTERM)] == [0, 130, 75]


def test_a_scheduler_s_grace_comes_before_the_profile_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grace_of(60.0) == 60.0
    monkeypatch.setenv("HAPS_GRACE_S", "240")
    assert grace_of(60.0) == 240.0


@pytest.mark.parametrize(("error", "status"), [(unfinished(SIGTERM, "x"), 75), (unfinished(STOP, "x"), 0)])
def test_the_command_ends_with_the_error_s_status(
    error: Unfinished, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended() -> None:
        raise error

    monkeypatch.setattr(main, "app", ended)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == status
    assert capsys.readouterr().err == f"unfinished: {error}\n"


def test_stopping_a_sweep_here_asks_its_driver(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def kill(pid: int, number: int) -> None:
        asked.append((pid, number))
        journal.close()

    monkeypatch.setattr(os, "kill", kill)
    runs = str(journal.folder.parent)
    done = CliRunner().invoke(app, ["stop", "tiny", "--runs", runs], catch_exceptions=False)
    assert asked == [(os.getpid(), signal.SIGTERM)]
    assert "tiny is stopped" in done.output
    with pytest.raises(ConfigError, match="no driver is at it"):
        CliRunner().invoke(app, ["stop", "tiny", "--runs", runs], catch_exceptions=False)


def test_who_waits_to_begin_again_leaves_at_once_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paused(0.01, tmp_path) == ""
    monkeypatch.setattr(leaving.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    assert paused(3600, tmp_path) == SIGTERM
