"""How far a long job is: plain lines with an estimate, a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from haps_search.cli import counting as module
from haps_search.cli.counting import counting, seconds_left


def test_the_rate_is_this_process_own() -> None:
    assert seconds_left(gained=10, missing=30, passed=5.0) == 15.0
    assert seconds_left(gained=0, missing=30, passed=5.0) is None


def test_plain_lines_come_first_then_now_and_then_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0, 30.0, 31.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with counting(Console(file=out), "episodes", 20, 60) as advance:
        for count in (10, 10, 10, 10):
            advance(count)
    assert out.getvalue().splitlines() == [
        "episodes 30/60, 0:30 left", "episodes 50/60, 0:10 left", "episodes 60/60, 0:00 left",
    ]  # fmt: skip


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    with counting(Console(file=out, force_terminal=True, width=80), "episodes", 20, 60) as advance:
        advance(10)
    assert "30/60" in out.getvalue()
