"""Batches that fit into memory: how many tokens go through a model at once is found out by trying."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

_log = logging.getLogger(__name__)
T = TypeVar("T")


class TokenBudget:
    """Tokens per forward pass, padding and the tokens yet to be sampled included.

    It doubles when a pass filled more than half of it, and is halved where memory ran out; what did not fit once
    is not tried again.
    """

    def __init__(self, start: int) -> None:
        self.tokens = start
        self._failed = math.inf

    def fitted(self, tokens: int) -> None:
        if 2 * tokens > self.tokens:
            self.tokens = max(self.tokens, int(min(2 * self.tokens, 0.9 * self._failed)))

    def failed(self, tokens: int) -> None:
        self._failed = min(self._failed, tokens)
        self.tokens = max(1, min(self.tokens, tokens // 2))

    def batches(self, lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
        """Places of `lengths`, in batches of at most `rows` that fit the budget of that moment; one always goes.

        Those of like length share a batch, so that little is padded.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        while order:
            count = 1
            while count < min(rows, len(order)) and (count + 1) * lengths[order[count]] <= self.tokens:
                count += 1
            yield order[:count]
            del order[:count]


class Batches:
    """Runs work of any kind on one device in batches; where memory runs out, in halves.

    `clear` gives back the memory that only saves time. A batch of one row is tried again after that.
    """

    def __init__(self, owner: str, tokens: int, rows: int, device: torch.device, clear: Callable[[], None]) -> None:
        self._owner, self._rows, self._device, self._clear = owner, rows, device, clear
        self._budget = TokenBudget(tokens)

    @property
    def room(self) -> int:
        """Tokens that go through at once at present."""
        return self._budget.tokens

    def run(self, lengths: Sequence[int], work: Callable[[list[int]], T]) -> Iterator[T]:
        """What `work` makes of each batch of rows; row i has `lengths[i]` tokens. Raises torch.OutOfMemoryError where
        one row does not fit."""
        for rows in self._budget.batches(lengths, self._rows):
            yield from self._fitting(rows, lengths, work)

    def flow(self, lengths: Sequence[int], work: Callable[[list[int], int], T]) -> Iterator[T]:
        """As `run`, where `work` is given rows of like length, or all if they fit, and how many of them go through at a
        time: others take the places of those that have ended."""
        fit = 0 < len(lengths) <= self._rows and len(lengths) * max(lengths) <= self.room
        for rows in [list(range(len(lengths)))] if fit else alike(lengths):
            yield self._flowing(rows, max(lengths[i] for i in rows), work)

    def _flowing(self, rows: list[int], longest: int, work: Callable[[list[int], int], T], cleared: bool = False) -> T:
        together = max(1, min(len(rows), self._rows, self.room // longest))
        try:
            found = work(rows, together)
            if self._device.type == "cuda":
                self._budget.fitted(together * longest)
            return found
        except torch.OutOfMemoryError:
            if together == 1 and cleared:
                raise
        self._give_back()
        if together > 1:
            self._failed(together, together * longest)
        return self._flowing(rows, longest, work, cleared=together == 1)

    def _give_back(self) -> None:
        self._clear()
        torch.cuda.empty_cache()

    def _failed(self, rows: int, tokens: int) -> None:
        self._budget.failed(tokens)
        _log.warning(
            "candidate %s: out of memory with %d rows; trying halves, at most %d tokens at once from now on",
            self._owner, rows, self.room,
        )  # fmt: skip

    def _fitting(
        self, rows: list[int], lengths: Sequence[int], work: Callable[[list[int]], T], cleared: bool = False
    ) -> Iterator[T]:
        tokens = len(rows) * max(lengths[i] for i in rows)
        try:
            found = work(rows)
            if self._device.type == "cuda":  # elsewhere a process is killed before anyone could halve
                self._budget.fitted(tokens)
        except torch.OutOfMemoryError:
            if len(rows) == 1 and cleared:
                raise
        else:
            yield found
            return
        # Past the except block, so that the failed attempt's tensors are not held by its traceback.
        self._give_back()
        if len(rows) == 1:
            yield from self._fitting(rows, lengths, work, cleared=True)
            return
        self._failed(len(rows), tokens)
        half = len(rows) // 2
        yield from self._fitting(rows[:half], lengths, work)
        yield from self._fitting(rows[half:], lengths, work)


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Places of `lengths`, the shortest first, in groups of which none is more than twice as long as another."""
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if found and lengths[i] <= 2 * lengths[found[-1][0]]:
            found[-1].append(i)
        else:
            found.append([i])
    return found
