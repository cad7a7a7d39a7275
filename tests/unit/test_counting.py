"""How far a long job is: plain lines with an estimate, a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from haps_search.cli import display
from haps_search.cli.display import Terminal, seconds_left
from haps_search.verbs.events import Counted


def test_the_rate_is_this_process_own() -> None:
    assert seconds_left(gained=10, missing=30, passed=5.0) == 15.0
    assert seconds_left(gained=0, missing=30, passed=5.0) is None


def test_plain_lines_come_first_then_now_and_then_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: times[-1])
    out = io.StringIO()
    with Terminal(Console(file=out)) as terminal:
        for now, done in ((0.0, 20), (10.0, 30), (12.0, 40), (30.0, 50), (31.0, 60)):
            times.append(now)
            terminal(Counted("episodes", done, 60))
    assert out.getvalue().splitlines() == [
        "episodes 30/60, 0:30 left", "episodes 50/60, 0:10 left", "episodes 60/60, 0:00 left",
    ]  # fmt: skip


def test_a_terminal_gets_a_bar_that_is_gone_with_the_job() -> None:
    out = io.StringIO()
    with Terminal(Console(file=out, force_terminal=True, width=80)) as terminal:
        terminal(Counted("episodes", 30, 60))
        assert terminal._moving is not None
    assert terminal._moving is None
    assert "30/60" in out.getvalue()
