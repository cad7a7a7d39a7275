"""All open tickets: who waits, who holds what, and every way in which a lease ends.

A lease ends when its worker answers (`settle`), at its deadline (`expire`, from the broker's clock), or with its worker
(`revoke`: its process was replaced or began again, or its node was lost, of which the driver's watch tells).

Plain state, told what time it is: no Ray, no asyncio. A ticket has one outcome, whatever workers do; it is kept until
its trial says that it has it, or has been silent for too long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from haps_search.config.engines import Leases
from haps_search.engines.cluster.lines import Entry, Lines
from haps_search.engines.cluster.protocol import Answered, Done, Failure, Limits, Lost, Outcome, Result, Ticket, Work
from haps_search.errors import Kind, PoolError

SILENT_S = 10.0
"""A trial that has not asked for its outcomes for so long is not leased to: its process may be gone."""
DROPPED_S = 60.0
"""Its tickets and outcomes are dropped. If it comes back, it submits what is open again."""
PATIENCE_S = 1.0
"""A ticket waits so long for the worker that it prefers, and then for any."""


@dataclass(eq=False, slots=True)
class _Trial:
    epoch: int
    heard: float
    open: dict[str, Entry] = field(default_factory=dict)
    outcomes: deque[Outcome] = field(default_factory=deque)
    told: int = 0
    """Outcomes so far."""


@dataclass(frozen=True, slots=True)
class _Lease:
    number: int
    worker: str
    candidate: str
    entries: tuple[Entry, ...]
    deadline: float


class Tickets:
    """Callers read and clear `heard`, trials with outcomes that they have not, and `stirred`, candidates for whose
    workers there may be something new; a worker's name there means that it is what some tickets prefer."""

    def __init__(self, candidates: Iterable[str], settings: Leases) -> None:
        self._settings = settings
        self._lines = {name: Lines() for name in candidates}
        self._trials: dict[str, _Trial] = {}
        self._leases: dict[int, _Lease] = {}
        self._expired: dict[int, _Lease] = {}
        """Whose late answers still count."""
        self._held: dict[str, set[int]] = {}
        self._impatient: deque[tuple[float, Entry]] = deque()
        self._numbers = self._epochs = 0
        self.counts = dict.fromkeys(("tickets", "rows", "leases", "requeued", "late", "lost", "dropped", "known"), 0)
        self.heard: set[str] = set()
        self.stirred: set[tuple[str, str]] = set()

    # What trials do.

    def submit(self, trial: str, tickets: Sequence[Ticket], now: float) -> int:
        """Take tickets, those that are known left out; returns the epoch of the trial, for `outcomes`.

        Raises PoolError for a candidate that is not there.
        """
        for ticket in tickets:
            if ticket.candidate not in self._lines:
                known = ", ".join(self._lines)
                raise PoolError(f"no candidate {ticket.candidate} in this pool: it hosts {known}")
        if trial not in self._trials:
            self._epochs += 1
            self._trials[trial] = _Trial(self._epochs, now)
        there = self._hear(trial, now)
        settled = {outcome.ticket for outcome in there.outcomes}
        for ticket in tickets:
            if ticket.id not in there.open and ticket.id not in settled:
                self._open(there, ticket, now)
        return there.epoch

    def outcomes(self, trial: str, epoch: int, seen: int, now: float) -> tuple[Outcome, ...] | None:
        """Those after number `seen`, which the trial has; None where its tickets of that epoch were dropped."""
        if not self._is_of(trial, epoch):
            return None
        there = self._hear(trial, now)
        while there.outcomes and there.outcomes[0].number <= seen:
            there.outcomes.popleft()
        return tuple(there.outcomes)

    def knows(self, trial: str) -> bool:
        return trial in self._trials

    def withdraw(self, trial: str, epoch: int, tickets: Iterable[str]) -> None:
        """Its trial wants these no more; unknown ones are no error."""
        if self._is_of(trial, epoch):
            for name in tickets:
                self._close(self._trials[trial].open.pop(name, None))

    def drop(self, trial: str) -> None:
        """The trial has left, or is taken for dead. Workers may still hold what it asked for; nobody waits for it."""
        there = self._trials.pop(trial, None)
        if there is not None:
            self.counts["dropped"] += len(there.open)
            for entry in there.open.values():
                self._close(entry)
        for lines in self._lines.values():
            lines.drop(trial)

    # What workers do.

    def grant(self, worker: str, candidate: str, limits: Limits, now: float) -> Work | None:
        """Lease the next batch to a worker; None where nothing is there for it."""

        def living(trial: str) -> bool:
            return now - self._trials[trial].heard <= SILENT_S

        entries = tuple(self._lines[candidate].take(worker, limits, living))
        if not entries:
            return None
        for entry in entries:
            entry.attempts += 1
        number = self._next()
        self._leases[number] = _Lease(number, worker, candidate, entries, now + self._settings.deadline_s)
        self._held.setdefault(worker, set()).add(number)
        self.counts["leases"] += 1
        return Work(number, entries[0].ticket.kind, tuple(entry.ticket.payload for entry in entries))

    def settle(self, done: Done) -> None:
        """A lease's results are in. Of one that expired right answers count; the rest was given to others already."""
        lease = self._release(done.lease)
        late = lease is None
        self.counts["late"] += late
        lease = lease or self._expired.pop(done.lease, None)
        if lease is None:
            return
        for entry, result in zip(lease.entries, done.results, strict=True):
            if isinstance(result, Answered):
                self.counts["known"] += 0 if late else result.known
                self._answer(entry, result, lease.worker)
            elif not late:
                self._not_answered(entry, result, lease.worker)

    def revoke(self, worker: str, problem: str, kind: Kind = Kind.UNKNOWN) -> None:
        """The worker's process is gone, or its answer is: others get at once what it held."""
        for number in sorted(self._held.pop(worker, ())):
            self._give_up(self._leases.pop(number), problem, kind)
        self._expired = {n: lease for n, lease in self._expired.items() if lease.worker != worker}

    # What time does.

    def expire(self, now: float) -> None:
        """End leases that are over, let go of who is silent, and offer to anyone what waited for a worker."""
        while self._leases and (lease := next(iter(self._leases.values()))).deadline < now:
            self._release(lease.number)
            self._expired[lease.number] = lease
            self._give_up(lease, f"no answer within {self._settings.deadline_s:g} s (leases.deadline_s)")
        for trial in [name for name, there in self._trials.items() if now - there.heard > DROPPED_S]:
            self.drop(trial)
        while self._impatient and self._impatient[0][0] < now:
            _, entry = self._impatient.popleft()
            if self._lines[entry.ticket.candidate].offer(entry):
                self.stirred.add((entry.ticket.candidate, ""))

    # What others may know.

    def waiting(self, candidate: str) -> Lines:
        return self._lines[candidate]

    @property
    def leased(self) -> int:
        """How many leases there are."""
        return len(self._leases)

    @property
    def open(self) -> int:
        """Tickets that have no outcome yet."""
        return sum(len(trial.open) for trial in self._trials.values())

    def busy(self) -> set[str]:
        """Candidates of which some worker holds a lease."""
        return {lease.candidate for lease in self._leases.values()}

    # Inside.

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _is_of(self, trial: str, epoch: int) -> bool:
        return trial in self._trials and self._trials[trial].epoch == epoch

    def _hear(self, trial: str, now: float) -> _Trial:
        there = self._trials[trial]
        if now - there.heard > SILENT_S:
            self.stirred |= {(entry.ticket.candidate, "") for entry in there.open.values() if entry.waiting}
        there.heard = now
        return there

    def _open(self, there: _Trial, ticket: Ticket, now: float) -> None:
        entry = there.open[ticket.id] = Entry(ticket, self._next())
        self.counts["tickets"] += 1
        self.counts["rows"] += ticket.rows
        self.counts["lost"] += ticket.lost > 0
        self._put(entry, ticket.prefers)
        if ticket.prefers:
            self._impatient.append((now + PATIENCE_S, entry))

    def _put(self, entry: Entry, prefers: str = "") -> None:
        self._lines[entry.ticket.candidate].put(entry, prefers)
        self.stirred.add((entry.ticket.candidate, prefers))

    def _close(self, entry: Entry | None) -> None:
        if entry is not None:
            entry.open = False
            self._lines[entry.ticket.candidate].discard(entry)

    def _release(self, number: int) -> _Lease | None:
        lease = self._leases.pop(number, None)
        if lease is not None:
            self._held[lease.worker].discard(number)
        return lease

    def _give_up(self, lease: _Lease, problem: str, kind: Kind = Kind.UNKNOWN) -> None:
        for entry in lease.entries:
            self._again(entry, problem, kind)

    def _not_answered(self, entry: Entry, result: Failure | Lost, worker: str) -> None:
        if isinstance(result, Failure) and not result.final:
            self._again(entry, str(result.error), result.error.kind)
        else:
            self._answer(entry, result, worker)

    def _again(self, entry: Entry, problem: str, kind: Kind) -> None:
        """To the front of its trial's line, by its age; or so many attempts were enough."""
        if not entry.open:
            return
        if entry.attempts < self._settings.attempts:
            # Its last attempt is its own: what kills a worker or hangs it takes none with it that shared a lease.
            entry.alone = entry.attempts == self._settings.attempts - 1
            self.counts["requeued"] += 1
            self._put(entry)
            return
        ticket = entry.ticket
        error = PoolError(f"candidate {ticket.candidate}: {entry.attempts} attempts failed: {problem}").of_kind(kind)
        self._answer(entry, Failure(error, final=True), "")

    def _answer(self, entry: Entry, result: Result, worker: str) -> None:
        """Once; what waits again or is leased again then, of an expired lease, is nobody's any more."""
        if not entry.open:
            return
        there = self._trials[entry.ticket.trial]
        del there.open[entry.ticket.id]
        self._close(entry)
        there.told += 1
        there.outcomes.append(Outcome(there.told, entry.ticket.id, worker, result))
        self.heard.add(entry.ticket.trial)
