"""Requests of many clients in one batch: all that wait when a worker is free go together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(eq=False, slots=True)
class Ticket(Generic[Q, A]):
    """One who waits. Whoever asked may be gone at any time, which another thread may see."""

    item: Q
    answer: asyncio.Future[A] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def wanted(self) -> bool:
        return not self.answer.done()


class Line(Generic[Q, A]):
    """Who waits for `work`, which runs in a thread of `threads` and answers a batch in its order.

    There is no delay: a batch is what came while the one before was at work. Where a batch fails its halves are
    tried, so that nobody fails by a neighbour's fault.
    """

    def __init__(self, work: Callable[[Sequence[Ticket[Q, A]]], Sequence[A]], most: int, threads: Executor) -> None:
        self._work, self._most, self._threads = work, most, threads
        self._waiting: deque[Ticket[Q, A]] = deque()
        self._serving: asyncio.Task[None] | None = None

    async def ask(self, item: Q) -> A:
        """Raises what `work` raised for this item alone. Who is cancelled leaves the line, or the batch at work."""
        ticket: Ticket[Q, A] = Ticket(item)
        self._waiting.append(ticket)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        try:
            return await ticket.answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # it is at work already
                self._waiting.remove(ticket)
            raise

    async def _serve(self) -> None:
        while self._waiting:
            batch: list[Ticket[Q, A]] = []
            while self._waiting and len(batch) < self._most:
                ticket = self._waiting.popleft()
                if ticket.wanted:
                    batch.append(ticket)
            if batch:
                await self._answered(batch)

    async def _answered(self, batch: list[Ticket[Q, A]]) -> None:
        working = asyncio.get_running_loop().run_in_executor(self._threads, self._work, batch)
        await asyncio.wait([working])
        error = working.exception()
        if error is not None and len(batch) > 1:
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                if wanted := [ticket for ticket in half if ticket.wanted]:
                    await self._answered(wanted)
            return
        answers = [] if error is not None else working.result()
        for place, ticket in enumerate(batch):
            if not ticket.wanted:
                continue
            if error is not None:
                ticket.answer.set_exception(error)
            else:
                ticket.answer.set_result(answers[place])
