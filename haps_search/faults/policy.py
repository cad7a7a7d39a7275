"""What follows from an error, decided in one place: again after a pause, a few times, or the end with a reason."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from haps_search.errors import Kind
from haps_search.faults.kinds import kind_of, pause_asked

_log = logging.getLogger(__name__)
T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Policy:
    """What passes by itself is tried for `within_s`, what nobody knows `tries` times in a row. Pauses begin at
    `first_s` and double up to `longest_s`, less up to half of each by chance, so that a thousand do not come at once.
    """

    within_s: float = 600.0
    tries: int = 3
    first_s: float = 1.0
    longest_s: float = 30.0


CALLS = Policy(within_s=60.0, first_s=0.5, longest_s=5.0)
"""Of a call between processes: who made it waits for it."""


@dataclass(frozen=True, slots=True)
class Again:
    """It is tried again, so many seconds later."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class Over:
    """It is not tried again now. `final`: nor later, unless somebody changes something."""

    final: bool


def decide(
    policy: Policy, kind: Kind, failures: int, passed_s: float, chance: float, asked_s: float = 0.0
) -> Again | Over:
    """What follows from the last of `failures` in a row, the first of them `passed_s` ago; `chance` is in [0, 1).

    `asked_s`: who failed wants to be left alone for so long, and is; where there is less time than that, it is over.
    """
    if kind is Kind.PERMANENT:
        return Over(final=True)
    if kind is Kind.TRANSIENT and passed_s + asked_s >= policy.within_s:
        return Over(final=False)
    if kind is Kind.UNKNOWN and failures >= policy.tries:
        return Over(final=True)
    longest = min(policy.first_s * 2.0 ** min(failures - 1, 60), policy.longest_s)
    return Again(max(longest * (1 - chance / 2), asked_s))


class Failures:
    """Those of one thing in a row; what it achieves in between makes them forgotten."""

    def __init__(
        self,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy, self._clock, self._chance = policy, clock, chance
        self._counts: dict[Kind, int] = {}
        self._since = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def follow(self, kind: Kind, failures: int | None = None, asked_s: float = 0.0) -> Again | Over:
        """One more, or the last of so many `failures` that another process counted with; `asked_s` as in `decide`.

        Kinds are counted apart: a network that broke five times does not use up the tries.
        """
        if not self.count:
            self._since = self._clock()
        self._counts[kind] = self._counts.get(kind, 0) + 1 if failures is None else failures
        passed_s = self._clock() - self._since
        return decide(self._policy, kind, self._counts[kind], passed_s, self._chance(), asked_s)

    def forget(self) -> None:
        self._counts.clear()


def persistently(
    call: Callable[[], T],
    what: str,
    policy: Policy = CALLS,
    say: Say = _log.warning,
    stop: Callable[[], bool] | None = None,
) -> T:
    """Call until it comes back, where what stands in the way passes by itself, for as long as the policy says; raises
    its error where that is over, or `stop` says so."""
    failures = Failures(policy)
    while True:
        try:
            return call()
        except Exception as error:
            pause_s = _pause(failures, error, what, say)
            if pause_s is None or (stop is not None and stop()):
                raise
        time.sleep(pause_s)


async def persistently_async(
    call: Callable[[], Awaitable[T]], what: str, policy: Policy = CALLS, say: Say = _log.warning
) -> T:
    """The same on an event loop."""
    failures = Failures(policy)
    while True:
        try:
            return await call()
        except Exception as error:
            pause_s = _pause(failures, error, what, say)
            if pause_s is None:
                raise
        await asyncio.sleep(pause_s)


def first_line(error: BaseException) -> str:
    """What a line has room for; Ray's messages have many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _pause(failures: Failures, error: Exception, what: str, say: Say) -> float | None:
    """Said, and how long it is; None where it is over. What nobody knows is not tried again here: a mistake in the
    program comes out the same way again."""
    kind = kind_of(error)
    follows = failures.follow(kind, asked_s=pause_asked(error)) if kind is Kind.TRANSIENT else Over(final=True)
    if isinstance(follows, Over):
        return None
    say(f"{what}: {first_line(error)}; tried again in {follows.pause_s:.0f} s")
    return follows.pause_s
