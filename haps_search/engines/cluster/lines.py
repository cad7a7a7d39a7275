"""A candidate's lines: fair among trials by tokens, cut into batches of one kind and of like length.

Who has been served the fewest tokens goes next (start-time fair queueing, Goyal, Vin and Cheng 1996), so that a flood
from one trial delays another's next batch by no more than its share. A trial that begins, or comes back, begins level
with those that wait: what it did not ask for is not owed to it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from haps_search.engines.cluster.protocol import Limits, Ticket

_OCTAVE = 4
"""Lengths of a class differ by less than 2^(1/4), and those of a batch, within 3 classes, by less than 2."""

Key = tuple[str, int]
"""Kind and class of length."""


@dataclass(eq=False, slots=True)
class Entry:
    """A ticket that is open: `number` says how old it is, `waiting` that a lease may have it, `open` that its trial
    still wants a result, `alone` that it shares no lease."""

    ticket: Ticket
    number: int
    attempts: int = 0
    waiting: bool = False
    open: bool = True
    alone: bool = False


_Line = list[tuple[int, Entry]]
"""A heap by age. What no longer waits is left out when it comes to the front."""


@dataclass(eq=False, slots=True)
class _Shelf:
    """What a trial has waiting: for anyone, and for the workers that some of it prefers."""

    order: int
    served: int
    count: int = 0
    anyone: dict[Key, _Line] = field(default_factory=dict)
    own: dict[str, dict[Key, _Line]] = field(default_factory=dict)

    def oldest(self, worker: str, batch: _Batch) -> Entry | None:
        """That fits; of each line only the first is looked at."""
        found: Entry | None = None
        for lines in (self.own.get(worker, {}), self.anyone):
            for key in batch.keys(lines):
                entry = _first(lines, key)
                if entry and batch.fits(entry) and (found is None or entry.number < found.number):
                    found = entry
        return found


class Lines:
    """Taking a batch costs O(log n) per ticket, and at most one look at each trial that waits. `rows` and `tickets`
    count what waits."""

    def __init__(self) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._turns: list[tuple[int, int, str]] = []
        """A heap by what trials were served, each trial with a shelf in it once."""
        self._past: dict[str, int] = {}
        """What trials without a shelf were served."""
        self._level = 0
        """What the trial had been served whose turn was last."""
        self._orders = 0
        self.rows = self.tickets = 0

    def put(self, entry: Entry, prefers: str = "") -> None:
        """Among those of its trial by age. With `prefers` for that worker only, until it is offered to anyone."""
        trial = entry.ticket.trial
        shelf = self._shelves.get(trial) or self._open(trial)
        lines = shelf.own.setdefault(prefers, {}) if prefers else shelf.anyone
        _push(lines, entry)
        entry.waiting = True
        shelf.count += 1
        self.rows += entry.ticket.rows
        self.tickets += 1

    def offer(self, entry: Entry) -> bool:
        """To anyone, whomever it prefers; False where it no longer waits."""
        if entry.waiting:
            _push(self._shelves[entry.ticket.trial].anyone, entry)
        return entry.waiting

    def discard(self, entry: Entry) -> None:
        """It waits no longer; not having waited is no error."""
        if entry.waiting:
            trial = entry.ticket.trial
            self._leave(self._shelves[trial], entry)
            self._close_if_empty(trial)

    def drop(self, trial: str) -> None:
        """Nothing of it waits any more, and what it was served is forgotten."""
        shelf = self._shelves.get(trial)
        for entry in _entries(shelf) if shelf else ():
            self.discard(entry)
        self._past.pop(trial, None)

    def take(self, worker: str, limits: Limits, living: Callable[[str], bool]) -> list[Entry]:
        """The next batch for a worker; one ticket always goes, if any of a living trial is for this worker.

        The oldest ticket of the trial whose turn it is sets kind and length, so nothing waits for ever for its like.
        """
        batch, aside = _Batch(limits), []
        while self._turns and batch.open:
            turn = heapq.heappop(self._turns)
            served, order, trial = turn
            shelf = self._shelves.get(trial)
            if shelf is None or shelf.order != order:
                continue
            alive = living(trial)
            entry = shelf.oldest(worker, batch) if alive else None
            if entry is None:
                if not alive:  # when it is heard of again it is level with the others
                    shelf.served = max(shelf.served, self._level)
                aside.append((shelf.served, order, trial))
                continue
            if not batch.entries:
                self._level = max(self._level, served)
            self._leave(shelf, entry)
            batch.add(entry)
            shelf.served += entry.ticket.tokens
            if not self._close_if_empty(trial):
                heapq.heappush(self._turns, (shelf.served, order, trial))
        for turn in aside:
            heapq.heappush(self._turns, turn)
        return batch.entries

    def _open(self, trial: str) -> _Shelf:
        self._orders += 1
        shelf = _Shelf(self._orders, max(self._past.pop(trial, 0), self._level))
        self._shelves[trial] = shelf
        heapq.heappush(self._turns, (shelf.served, shelf.order, trial))
        return shelf

    def _leave(self, shelf: _Shelf, entry: Entry) -> None:
        entry.waiting = False
        shelf.count -= 1
        self.rows -= entry.ticket.rows
        self.tickets -= 1

    def _close_if_empty(self, trial: str) -> bool:
        shelf = self._shelves[trial]
        if shelf.count == 0:
            self._past[trial] = shelf.served
            del self._shelves[trial]
        return shelf.count == 0


class _Batch:
    def __init__(self, limits: Limits) -> None:
        self._rows, self._tokens, self._bytes = limits.rows, limits.tokens, limits.bytes
        self._keys: tuple[Key, ...] = ()
        self.entries: list[Entry] = []

    @property
    def open(self) -> bool:
        """Whether any ticket might still fit."""
        return not self.entries or (self._rows >= 1 and self._tokens >= 1)

    def keys(self, lines: dict[Key, _Line]) -> Iterable[Key]:
        """Of lines that may hold what fits: all of them for the first ticket."""
        return self._keys or tuple(lines)

    def fits(self, entry: Entry) -> bool:
        if not self.entries:
            return True
        ticket = entry.ticket
        if entry.alone:
            return False
        return ticket.rows <= self._rows and ticket.tokens <= self._tokens and ticket.bytes <= self._bytes

    def add(self, entry: Entry) -> None:
        ticket = entry.ticket
        if not self.entries:
            kind, middle = _key(ticket)
            self._keys = tuple((kind, middle + step) for step in range(1 - _OCTAVE, _OCTAVE))
        self.entries.append(entry)
        self._rows = 0 if entry.alone else self._rows - ticket.rows
        self._tokens -= ticket.tokens
        self._bytes -= ticket.bytes


def _key(ticket: Ticket) -> Key:
    return ticket.kind, math.floor(_OCTAVE * math.log2(max(ticket.length, 1)))


def _push(lines: dict[Key, _Line], entry: Entry) -> None:
    heapq.heappush(lines.setdefault(_key(entry.ticket), []), (entry.number, entry))


def _first(lines: dict[Key, _Line], key: Key) -> Entry | None:
    line = lines.get(key)
    while line and not line[0][1].waiting:
        heapq.heappop(line)
    if line:
        return line[0][1]
    lines.pop(key, None)
    return None


def _entries(shelf: _Shelf) -> list[Entry]:
    return [entry for lines in (shelf.anyone, *shelf.own.values()) for line in lines.values() for _, entry in line]
