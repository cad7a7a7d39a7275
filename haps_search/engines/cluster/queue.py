"""A candidate's queue: fair among trials by deficit round robin, cut into batches of like length."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
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
    """Trials take turns by tokens (deficit round robin, Shreedhar and Varghese 1995), so that a flood from one delays
    another's next batch by no more than its share.

    A batch holds items within a factor of two of the length of its first, the oldest of the trial whose turn it is.
    Each trial gets its turn, so nothing waits for ever for others of its length.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._deficits: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[T]:
        return (item for line in self._lines.values() for item in line)

    def put(self, items: Sequence[T], first: bool = False) -> None:
        """`first`: before what else waits of their trials."""
        for item in reversed(items) if first else items:
            line = self._lines.setdefault(item.trial, deque())
            self._deficits.setdefault(item.trial, 0)
            if first:
                line.appendleft(item)
            else:
                line.append(item)

    def clear(self) -> None:
        self._lines.clear()
        self._deficits.clear()

    def take(self, rows: int, tokens: float) -> list[T]:
        """A batch of at most so many rows and tokens; one item always goes."""
        for trial in list(self._lines):
            self._keep(trial, [item for item in self._lines[trial] if not item.gone])
        if not self._lines:
            return []
        batch: _Batch[T] = _Batch(next(iter(self._lines.values()))[0], rows, tokens)
        while any(batch.fits(item) for item in self):
            for trial in list(self._lines):
                self._serve(trial, batch)
        return batch.items

    def _serve(self, trial: str, batch: _Batch[T]) -> None:
        """One turn. Who was served goes to the end of the round; who was not stays in front of the next batch's."""
        self._deficits[trial] += batch.quantum
        left: list[T] = []
        line = self._lines[trial]
        while line:
            item = line.popleft()
            if not batch.fits(item):
                left.append(item)
            elif item.cost > self._deficits[trial]:
                line.appendleft(item)  # in a later round, and nothing of its trial before it
                break
            else:
                self._deficits[trial] -= item.cost
                batch.add(item)
                self._lines.move_to_end(trial)
        self._keep(trial, [*left, *line])

    def _keep(self, trial: str, items: Sequence[T]) -> None:
        self._lines[trial] = deque(items)
        if not items:
            del self._lines[trial], self._deficits[trial]


class _Batch(Generic[T]):
    def __init__(self, oldest: T, rows: int, tokens: float) -> None:
        self._length, self.quantum = oldest.length, oldest.cost
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
