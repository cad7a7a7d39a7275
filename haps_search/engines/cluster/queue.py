"""A candidate's queue: fair among trials by tokens, cut into batches of like length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """What waits: its rows, the tokens of its longest prompt with answer, and their product; `gone`: nobody waits
    for it any more."""

    @property
    def trial(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def cost(self) -> int: ...
    @property
    def gone(self) -> bool: ...


T = TypeVar("T", bound=Item)


class FairQueue(Generic[T]):
    """Who has been served the fewest tokens goes next (start-time fair queueing, Goyal, Vin and Cheng 1996), so that a
    flood from one trial delays another's next batch by no more than its share. A trial that begins, or comes back,
    begins level with those that wait: what it did not ask for is not owed to it.

    A batch holds items within a factor of two of the length of its first, the oldest of the trial whose turn it is.
    Each trial gets its turn, so nothing waits for ever for others of its length.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}
        self._served: dict[str, int] = {}
        self._level = 0
        """What the trial had been served whose turn was last."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[T]:
        return (item for line in self._lines.values() for item in line)

    def put(self, items: Sequence[T], first: bool = False) -> None:
        """`first`: before what else waits of their trials."""
        for item in reversed(items) if first else items:
            line = self._lines.setdefault(item.trial, deque())
            self._served[item.trial] = max(self._served.get(item.trial, 0), self._level)
            if first:
                line.appendleft(item)
            else:
                line.append(item)

    def clear(self) -> None:
        self._lines.clear()

    def take(self, rows: int, tokens: float) -> list[T]:
        """A batch of at most so many rows and tokens; one item always goes."""
        for trial, line in list(self._lines.items()):
            self._keep(trial, [item for item in line if not item.gone])
        if not self._lines:
            return []
        turn = min(self._lines, key=self._served.__getitem__)
        self._level = self._served[turn]
        batch: _Batch[T] = _Batch(self._lines[turn][0], rows, tokens)
        while fitting := self._fitting(batch):
            item = min(fitting, key=lambda item: self._served[item.trial])
            self._lines[item.trial].remove(item)
            self._served[item.trial] += item.cost
            batch.add(item)
        for trial, line in list(self._lines.items()):
            self._keep(trial, line)
        self._served = {t: n for t, n in self._served.items() if t in self._lines or n > self._level}
        return batch.items

    def _fitting(self, batch: _Batch[T]) -> list[T]:
        """Of each trial the oldest item that fits."""
        firsts = (next((item for item in line if batch.fits(item)), None) for line in self._lines.values())
        return [item for item in firsts if item is not None]

    def _keep(self, trial: str, items: Iterable[T]) -> None:
        self._lines[trial] = deque(items)
        if not self._lines[trial]:
            del self._lines[trial]


class _Batch(Generic[T]):
    def __init__(self, oldest: T, rows: int, tokens: float) -> None:
        self._length = oldest.length
        self._rows, self._tokens = rows, tokens
        self.items: list[T] = []

    def fits(self, item: T) -> bool:
        if self._length > 2 * item.length or item.length > 2 * self._length:
            return False
        return not self.items or (item.rows <= self._rows and item.cost <= self._tokens)

    def add(self, item: T) -> None:
        self.items.append(item)
        self._rows -= item.rows
        self._tokens -= item.cost
