"""What follows from an error: pauses that grow, tries that are counted, an end with its reason."""

from __future__ import annotations

import asyncio
import errno

import pytest

from haps_search.errors import Kind
from haps_search.faults import policy as module
from haps_search.faults.policy import Again, Failures, Over, Policy, decide, persistently, persistently_async

POLICY = Policy(within_s=100.0, tries=3, first_s=1.0, longest_s=8.0)
STALE = OSError(errno.ESTALE, "Stale file handle")


def test_what_is_permanent_is_never_tried_again() -> None:
    assert decide(POLICY, Kind.PERMANENT, 1, 0.0, 0.0) == Over(final=True)


def test_what_passes_is_tried_for_so_long_with_growing_pauses() -> None:
    pauses = [decide(POLICY, Kind.TRANSIENT, n, 0.0, 0.0) for n in range(1, 7)]
    assert pauses == [Again(s) for s in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0)]
    assert decide(POLICY, Kind.TRANSIENT, 1000, 99.9, 0.0) == Again(8.0)
    assert decide(POLICY, Kind.TRANSIENT, 2, 100.0, 0.0) == Over(final=False)


def test_chance_takes_up_to_half_of_a_pause() -> None:
    assert decide(POLICY, Kind.TRANSIENT, 3, 0.0, 0.5) == Again(3.0)


def test_what_nobody_knows_is_tried_so_often() -> None:
    found = [decide(POLICY, Kind.UNKNOWN, n, 1e9, 0.0) for n in (1, 2, 3)]
    assert found == [Again(1.0), Again(2.0), Over(final=True)]


def test_kinds_are_counted_apart_and_progress_makes_them_forgotten() -> None:
    now = [0.0]
    failures = Failures(POLICY, lambda: now[0], lambda: 0.0)
    for _ in range(5):
        assert isinstance(failures.follow(Kind.TRANSIENT), Again)
    assert [failures.follow(Kind.UNKNOWN) for _ in range(2)] == [Again(1.0), Again(2.0)]
    failures.forget()
    assert failures.follow(Kind.UNKNOWN) == Again(1.0)
    now[0] = 100.0
    assert failures.follow(Kind.TRANSIENT) == Over(final=False)


class Shaky:
    """Fails so often, and then answers."""

    def __init__(self, times: int, error: Exception) -> None:
        self.calls, self._times, self._error = 0, times, error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return "there"

    async def later(self) -> str:
        return self()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    return pauses


def test_a_call_is_made_again_while_its_error_passes_and_each_time_is_said(slept: list[float]) -> None:
    said: list[str] = []
    shaky = Shaky(3, STALE)
    assert persistently(shaky, "the store", POLICY, said.append) == "there"
    assert (shaky.calls, len(slept), len(said)) == (4, 3, 3)
    assert said[0].startswith("the store: [Errno 116] Stale file handle; tried again in ")


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), ValueError("a bug")])
def test_other_errors_come_through_at_once(error: Exception, slept: list[float]) -> None:
    shaky = Shaky(1, error)
    with pytest.raises(type(error)):
        persistently(shaky, "it", POLICY)
    assert (shaky.calls, slept) == (1, [])


def test_who_leaves_does_not_wait(slept: list[float]) -> None:
    with pytest.raises(OSError, match="Stale"):
        persistently(Shaky(9, STALE), "it", POLICY, stop=lambda: True)
    assert slept == []


def test_the_same_on_an_event_loop() -> None:
    quick = Policy(first_s=0.001, longest_s=0.001)
    assert asyncio.run(persistently_async(Shaky(3, STALE).later, "it", quick)) == "there"
    with pytest.raises(OSError, match="Stale"):
        asyncio.run(persistently_async(Shaky(3, STALE).later, "it", Policy(within_s=0.0)))


def test_who_asks_for_a_pause_gets_it_and_no_end_of_patience_is_waited_for() -> None:
    assert decide(POLICY, Kind.TRANSIENT, 1, 0.0, 0.0, asked_s=30.0) == Again(30.0)
    assert decide(POLICY, Kind.TRANSIENT, 4, 0.0, 0.0, asked_s=2.0) == Again(8.0)  # its own is longer
    assert decide(POLICY, Kind.TRANSIENT, 1, 60.0, 0.0, asked_s=40.0) == Over(final=False)
    assert Failures(POLICY, lambda: 0.0, lambda: 0.0).follow(Kind.TRANSIENT, asked_s=5.0) == Again(5.0)
