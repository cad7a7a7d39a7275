"""The watching outlives what cannot be read for a moment, and says what stays broken; the display shows it."""

from __future__ import annotations

import io

import pytest
from patience import wait_for
from rich.console import Console

from haps_search.cli.display import Terminal
from haps_search.errors import PoolError
from haps_search.verbs import watching as module
from haps_search.verbs.events import Event, Frame, Said
from haps_search.verbs.watching import watching


class Sweep:
    """A sweep that is asked again and again."""

    def __init__(self, broken: range, error: Exception) -> None:
        self._broken, self._error = broken, error
        self.asked = 0

    def tick(self) -> None:
        self.asked += 1
        if self.asked in self._broken:
            raise self._error

    def frame(self, last: bool) -> Frame:
        return Frame((), 0.5, last)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.001)


def watched(sweep: Sweep, ticks: int, terminal: bool = False) -> None:
    with (
        Terminal(Console(file=io.StringIO(), force_terminal=terminal)) as shown,
        watching(shown, sweep.frame, sweep.tick),
    ):
        wait_for(lambda: sweep.asked >= ticks, "nobody asked", every_s=0.001)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("error", [PoolError("the store is away"), OSError(116, "Stale file handle")])
def test_a_hiccup_is_gone_at_the_next_tick(error: Exception, terminal: bool) -> None:
    sweep = Sweep(range(2, 4), error)
    watched(sweep, ticks=6, terminal=terminal)
    assert sweep.asked >= 6


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_still_there_at_the_end_is_raised(terminal: bool) -> None:
    with pytest.raises(PoolError, match="the store is away"):
        watched(Sweep(range(2, 10**6), PoolError("the store is away")), ticks=6, terminal=terminal)


def test_a_mistake_of_ours_is_raised_whenever_it_happens() -> None:
    with pytest.raises(ValueError, match="a bug"):
        watched(Sweep(range(2, 3), ValueError("a bug")), ticks=2)


def test_the_last_frame_comes_when_the_body_has_ended_and_only_then() -> None:
    events: list[Event] = []
    sweep = Sweep(range(0), ValueError())
    with watching(events.append, sweep.frame, sweep.tick):
        wait_for(lambda: sweep.asked >= 2, "nobody asked", every_s=0.001)
        assert not any(isinstance(event, Frame) and event.last for event in events)
    assert [isinstance(event, Frame) and event.last for event in events] == [*[False] * (len(events) - 1), True]


def test_a_line_goes_out_above_what_moves() -> None:
    out = io.StringIO()
    with Terminal(Console(file=out, force_terminal=True, width=80)) as terminal:
        terminal(Frame((), 0.5))
        terminal(Said("a [bracketed] line"))
        terminal(Frame((), 1.0, last=True))
        assert terminal._moving is None
    assert "a [bracketed] line" in out.getvalue()
