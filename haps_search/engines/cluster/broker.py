"""The broker: an actor's face of tickets and roster. It sees names, sizes and references, and never a tensor.

Plain asyncio, no Ray: the session makes an actor of it. Nobody holds a call while others work: `submit` returns at
once, `collect` and `exchange` are polls of bounded length, one at a time per trial and per worker. So what is open at
any moment is bounded by trials and workers, whatever is queued.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from haps_search.config.engines import Leases
from haps_search.engines.cluster.protocol import Answered, Done, Limits, Outcome, Tended, Ticket, Work
from haps_search.engines.cluster.roster import Roster
from haps_search.engines.cluster.tickets import Tickets
from haps_search.errors import CandidateError, HapsError, Kind, PoolError
from haps_search.types import ModuleTable

_log = logging.getLogger(__name__)
IDLE_POLL_S = 5.0
"""How long a worker's call waits for work before it comes back empty; shows that the worker lives."""
TRIAL_POLL_S = 2.5
"""The same for a trial's; well below `tickets.SILENT_S`."""
TICK_S = 0.25
"""How often time is looked at."""
TELL_S = 2.0
"""How often `told` is told."""
REPLACED = "its worker was replaced"


class Broker:
    """`seats` is the number of workers per candidate. `told` makes, in the broker's own process, what its status is
    told to now and then."""

    def __init__(
        self,
        seats: Mapping[str, int],
        leases: Leases,
        silence_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[], Callable[[Mapping[str, object]], None]] | None = None,
    ) -> None:
        self._names, self._settings, self._clock = tuple(seats), leases, clock
        self._told = told() if told is not None else None
        self._tickets = Tickets(seats, leases)
        self._roster = Roster(seats, leases, silence_s, clock())
        self._news: dict[str, asyncio.Event] = {}
        self._tended = 0, Tended((), {}, {}, None, ())
        self._idle: dict[str, dict[str, asyncio.Event]] = {name: {} for name in seats}
        """Workers that wait, by candidate, who came first first."""
        self._narrowed = 0
        self._ended: PoolError | None = None
        self._cause: HapsError | None = None
        self._changed = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None

    # What trials call.

    async def submit(self, trial: str, tickets: Sequence[Ticket]) -> int:
        """Take tickets; those that are known are no error. Returns the trial's epoch, for `collect`.

        Raises PoolError: the pool has ended, or has no such candidate.
        """
        self._live()
        served = [self._preferring(ticket) for ticket in tickets]
        epoch = self._tickets.submit(trial, served, self._clock())
        self._announce()
        return epoch

    async def collect(self, trial: str, epoch: int, seen: int) -> tuple[Outcome, ...] | None:
        """Outcomes after number `seen`, which the trial has; none where none came within `TRIAL_POLL_S`.

        None where the trial was silent for so long that its tickets were dropped: it submits again what is open.
        Raises PoolError where the pool has ended.
        """
        until = self._clock_of_loop() + TRIAL_POLL_S
        while True:
            self._live()
            found = self._tickets.outcomes(trial, epoch, seen, self._clock())
            self._announce()
            if found is None or found or not await self._heard_of(trial, until):
                return found

    async def withdraw(self, trial: str, epoch: int, seen: int, tickets: Sequence[str] = ()) -> None:
        """The trial has all outcomes up to `seen`, and wants these tickets no more."""
        self._tickets.outcomes(trial, epoch, seen, self._clock())
        self._tickets.withdraw(trial, epoch, tickets)

    async def leave(self, trial: str) -> None:
        """The trial is done."""
        self._tickets.drop(trial)
        self._news.pop(trial, None)

    async def tables(self) -> dict[str, ModuleTable] | None:
        """The module tables of all candidates, once each has a worker; None where that takes longer than a poll.

        Raises:
            PoolError: the pool has ended. CandidateError: it ended because a candidate does not load.
        """
        self._start_ticking()
        until = self._clock_of_loop() + TRIAL_POLL_S
        while self._ended is None and not self._all_loaded:
            if not await _within(self._changed, until):
                return None
        if self._ended is not None:
            # What loaded once and does not load again is the machines' failure.
            raise _anew((None if self._all_loaded else self._cause) or self._ended)
        return dict(self._roster.tables)

    async def status(self) -> dict[str, object]:
        """Counts, queue lengths and workers, for displays and tests.

        `narrowed`: how often a worker halved its room after its memory ran out; `known`: how many prompts workers
        still had; `lost`: tickets whose request or answer had to be asked for again; `dropped`: those of trials that
        left or fell silent.
        """
        return {
            **self._tickets.counts,
            "narrowed": self._narrowed,
            "waiting": {name: self._tickets.waiting(name).tickets for name in self._names},
            "open": self._tickets.open,
            "leased": self._tickets.leased,
            "workers": {
                key: {
                    "candidate": w.candidate,
                    "pid": w.pid,
                    "node": w.node,
                    "registrations": w.registrations,
                    "room": w.room,
                    "serving": w.session > 0,
                }
                for key, w in self._roster.workers.items()
            },
            "ended": str(self._ended) if self._ended else None,
        }

    # What workers call.

    async def arrive(self, worker: str, candidate: str, node: str = "") -> int:
        """A worker's process is about to load its candidate. Returns which start of it this is; 0 where it should
        leave, as the pool has ended."""
        self._start_ticking()
        self._revoke(worker, REPLACED)
        try:
            start = self._roster.arrive(worker, candidate, node, self._clock())
        except PoolError as error:
            if not self._roster.hosts(candidate):
                await self.fail_all(str(error))
            return 0
        return 0 if self._ended is not None else start

    async def register(self, worker: str, table: ModuleTable, pid: int, node: str, start: int, lost: str = "") -> int:
        """A worker has loaded its candidate, or begins again. What it held before is given to others; `lost` says what
        the machines did where they broke it off.

        Returns its session. Raises PoolError where a later start of it has arrived, or the pool has ended: it should
        leave.
        """
        self._live()
        session = self._roster.register(worker, table, pid, node, start, self._clock())
        self._revoke(worker, lost or REPLACED, Kind.TRANSIENT if lost else Kind.UNKNOWN)
        self._signal()
        return session

    async def exchange(self, worker: str, session: int, done: Done | None, room: float = math.inf) -> Work | None:
        """Hand in an outcome and lease the next tickets, in one call so that the two cannot overtake each other.

        `room` is how many tokens the worker takes at once; a lease has no more, unless a single ticket has.
        Returns None where nothing came within `IDLE_POLL_S`. Raises PoolError when the pool has ended or the
        worker was replaced: it should register again, or leave.
        """
        if done is not None:
            self._tickets.settle(done)
            if any(isinstance(result, Answered) for result in done.results):
                self._roster.answered(worker)
            self._announce()
        holder = self._roster.serving(worker, session)
        self._narrowed += math.isfinite(holder.room) and room < holder.room
        holder.room, holder.heard = room, self._clock()
        until = self._clock_of_loop() + IDLE_POLL_S
        while True:
            self._live()
            try:
                self._roster.serving(worker, session)
            except PoolError:  # replaced while it waited: nobody would answer its lease, and another takes its turn
                self._wake(holder.candidate)
                raise
            work = self._grant(worker, holder.candidate, room)
            if work is not None or not await self._work_for(worker, holder.candidate, until):
                return work

    async def fail_all(self, reason: str, error: HapsError | None = None) -> None:
        """End the pool: everyone who waits, and everyone who comes later, is told why.

        `error` is the candidate's that did not load, for those who wait for its table.
        """
        if self._ended is not None:
            return
        self._ended, self._cause = PoolError(reason), error
        self._signal()
        for event in (*self._news.values(), *(e for idle in self._idle.values() for e in idle.values())):
            event.set()

    async def troubled(self, worker: str, candidate: str, node: str, error: CandidateError) -> None:
        """A candidate does not load on a node now; its worker tries it again there."""
        self._roster.refuse(worker, candidate, node, error, final=False)

    async def refuse(self, worker: str, candidate: str, node: str, error: CandidateError) -> bool:
        """A candidate does not load on a node; the worker keeps its seat, which no other is to get, until the end.

        A poll: False where the pool goes on, so the worker asks again.
        """
        self._roster.refuse(worker, candidate, node, error)
        until = self._clock_of_loop() + IDLE_POLL_S
        while self._ended is None and await _within(self._changed, until):
            continue
        return self._ended is not None

    # What the driver calls.

    async def tend(self, alive: Sequence[str], call: int = 0) -> Tended:
        """Take back at once what workers of vanished nodes held, `alive` being the ids of those that live. Refusals and
        hung workers are told once: a `call` of the same number as the one before, whose answer was lost, has its."""
        if call and call == self._tended[0]:
            return self._tended[1]
        found = self._tend(alive)
        self._tended = call, found
        return found

    # Inside.

    def _tend(self, alive: Sequence[str]) -> Tended:
        now = self._clock()
        for worker in self._roster.stranded(alive):
            self._roster.leave(worker, now)
            self._revoke(worker, "its worker's node was lost", Kind.TRANSIENT)
        hung = tuple(self._roster.hung(now))
        for each in hung:
            self._roster.leave(each.worker, now)
            self._revoke(each.worker, "its worker hung")
        missing = self._roster.missing(self._wanted(), now)
        ended = str(self._ended) if self._ended else None
        return Tended(self._roster.news(), missing, self._roster.loading(now), ended, hung)

    @property
    def _all_loaded(self) -> bool:
        return len(self._roster.tables) >= len(self._names)

    def _live(self) -> None:
        self._start_ticking()
        if self._ended is not None:
            raise _anew(self._ended)

    def _clock_of_loop(self) -> float:
        return asyncio.get_running_loop().time()

    def _wanted(self) -> list[str]:
        return [name for name in self._names if self._tickets.waiting(name).tickets]

    def _preferring(self, ticket: Ticket) -> Ticket:
        """Nobody waits for a worker that is gone."""
        if ticket.prefers and not self._roster.serves(ticket.prefers, ticket.candidate):
            return replace(ticket, prefers="")
        return ticket

    def _revoke(self, worker: str, problem: str, kind: Kind = Kind.UNKNOWN) -> None:
        self._tickets.revoke(worker, problem, kind)
        self._announce()

    def _grant(self, worker: str, candidate: str, room: float) -> Work | None:
        """What waits is spread over the workers that have nothing to do."""
        waiting, idle = self._tickets.waiting(candidate), len(self._idle[candidate]) + 1
        rows = min(self._settings.rows, math.ceil(waiting.rows / idle))
        limits = Limits(rows, room, self._settings.gb * 1e9)
        work = self._tickets.grant(worker, candidate, limits, self._clock())
        if work is not None and waiting.tickets:
            self._wake(candidate)
        return work

    async def _work_for(self, worker: str, candidate: str, until: float) -> bool:
        """Wait until there may be work; False where none came in time."""
        event = self._idle[candidate][worker] = asyncio.Event()
        try:
            return await _within(event, until)
        finally:
            if self._idle[candidate].get(worker) is event:
                del self._idle[candidate][worker]

    async def _heard_of(self, trial: str, until: float) -> bool:
        return await _within(self._news.setdefault(trial, asyncio.Event()), until)

    def _announce(self) -> None:
        """Wake trials whose tickets have outcomes, and workers for whom something may wait."""
        for trial in self._tickets.heard:
            if trial in self._news:
                self._news[trial].set()
        self._tickets.heard.clear()
        for candidate, worker in self._tickets.stirred:
            self._wake(candidate, worker)
        self._tickets.stirred.clear()

    def _wake(self, candidate: str, worker: str = "") -> None:
        """One worker that waits; it wakes the next, if more waits than it takes."""
        idle = self._idle[candidate]
        first = worker or next(iter(idle), "")
        if first in idle:
            idle.pop(first).set()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _start_ticking(self) -> None:
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        told = -math.inf
        try:
            while self._ended is None:
                await asyncio.sleep(min(TICK_S, self._settings.deadline_s / 4))
                await self._look(self._clock())
                if self._clock_of_loop() - told > TELL_S:
                    told = self._clock_of_loop()
                    await self._tell()
        except Exception as error:
            # Without it no lease ends any more, and nobody would be told.
            await self.fail_all(f"the broker's clock stopped ({type(error).__name__}: {error})")
            raise

    async def _tell(self) -> None:
        """What it is told to may break, and nothing else with it."""
        if self._told is None:
            return
        try:
            self._told(await self.status())
        except Exception:  # noqa: BLE001 - whatever it is, it is no reason to end the pool
            _log.exception("the broker's status is told no more")
            self._told = None

    async def _look(self, now: float) -> None:
        self._tickets.expire(now)
        self._announce()
        for trial in [name for name in self._news if not self._tickets.knows(name)]:
            del self._news[trial]
        waiting = {name: self._tickets.waiting(name).tickets > 0 for name in self._names}
        reason = self._roster.lost_for_good(waiting, self._tickets.busy(), now)
        if reason is not None:
            await self.fail_all(reason)


def _anew(error: HapsError) -> HapsError:
    """Without the way of those who were told before, which would hold all that they had asked for."""
    return error.with_traceback(None)


async def _within(event: asyncio.Event, until: float) -> bool:
    """Whether the event came before `until`, on the loop's clock; it is cleared, for the next."""
    try:
        async with asyncio.timeout_at(until):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
