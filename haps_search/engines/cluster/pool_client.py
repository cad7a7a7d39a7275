"""A trial's side of the broker: tickets go out, outcomes come in, and what is lost on the way is asked for again."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray.exceptions import RayError

from haps_search.engines.cluster.failures import answer
from haps_search.engines.cluster.protocol import Answered, Failure, Outcome, Ticket
from haps_search.engines.cluster.store import LOST
from haps_search.errors import HapsError, Kind, PoolError
from haps_search.faults.kinds import kind_of
from haps_search.faults.policy import CALLS, first_line, persistently_async

_log = logging.getLogger(__name__)
CALL_S = 30.0
"""How long a call of the broker may take; its polls end long before."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """What a ticket is to be. `put` makes its payload, once more where it was lost."""

    candidate: str
    kind: str
    rows: int
    tokens: int
    bytes: int
    put: Callable[[], Any]
    prefers: str = ""


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """An answer, opened, and the worker that gave it."""

    worker: str
    answer: T


@dataclass(eq=False, slots=True)
class _Open:
    ticket: Ticket
    outcome: asyncio.Future[Outcome]


class PoolClient:
    """One trial's open tickets. `attempts` bounds how often one of them may be lost."""

    def __init__(self, broker: Any, trial: str, attempts: int) -> None:
        self._broker, self._trial, self._attempts = broker, trial, attempts
        self._numbers = itertools.count()
        self._open: dict[str, _Open] = {}
        self._epoch = self._seen = 0
        self._polling: asyncio.Task[None] | None = None

    async def ask(self, orders: Sequence[Order], opened: Callable[[Any], T]) -> list[Taken[T]]:
        """An answer per order, in order. `opened` fetches one from the store, in a thread.

        Raises CandidateError, PoolError.
        """
        if not orders:
            return []
        names: list[str] = []
        taking: list[asyncio.Task[Taken[T]]] = []
        try:
            asked = [self._new(order, names) for order in orders]
            await self._submit(asked)
            taking += [
                asyncio.create_task(self._taken(o, a, names, opened)) for o, a in zip(orders, asked, strict=True)
            ]
            return list(await asyncio.gather(*taking))
        finally:
            for task in taking:
                task.cancel()
            self._withdraw(names)

    async def tables(self) -> Any:
        """The candidates' module tables, as soon as all are loaded. Raises CandidateError, PoolError."""
        while True:
            found = await self._call("tables")
            if found is not None:
                return found

    def leave(self) -> None:
        """Nothing is wanted any more."""
        self._open.clear()
        self._broker.leave.remote(self._trial)

    def _new(self, order: Order, names: list[str], lost: int = 0) -> _Open:
        name = f"{self._trial}/{next(self._numbers)}"
        names.append(name)
        what = order.kind, order.rows, order.tokens, order.bytes, order.put(), order.prefers, lost
        opened = _Open(Ticket(name, self._trial, order.candidate, *what), asyncio.get_running_loop().create_future())
        self._open[name] = opened
        return opened

    async def _submit(self, asked: Sequence[_Open]) -> None:
        epoch = await self._call("submit", self._trial, [each.ticket for each in asked])
        if epoch != self._epoch:
            known, self._epoch, self._seen = self._epoch, epoch, 0
            others = [each.ticket for each in self._open.values() if each not in asked]
            if known and others:  # it was silent, and whatever else was open is there no more
                _log.warning("the broker had dropped %d tickets of this trial: submitted again", len(others))
                await self._call("submit", self._trial, others)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())

    async def _taken(self, order: Order, asked: _Open, names: list[str], opened: Callable[[Any], T]) -> Taken[T]:
        """Its answer, however often it is lost before it is here."""
        for lost in range(1, self._attempts + 1):
            outcome = await asked.outcome
            result = outcome.result
            if isinstance(result, Failure):
                raise result.error
            if isinstance(result, Answered):
                try:
                    return Taken(outcome.worker, await asyncio.to_thread(opened, result.payload))
                except LOST as error:
                    reason = f"its answer was lost ({first_line(error)})"
            else:
                reason = result.reason
            _log.warning("%s: %s; asked again", asked.ticket.id, reason)
            if lost == self._attempts:
                break
            asked = self._new(order, names, lost)
            await self._submit([asked])
        said = f"candidate {order.candidate}: a request was lost {self._attempts} times: {reason}"
        raise PoolError(said).of_kind(Kind.TRANSIENT)

    async def _poll(self) -> None:
        try:
            while self._open:
                found = await self._call("collect", self._trial, self._epoch, self._seen)
                if found is None:
                    await self._submit(list(self._open.values()))
                else:
                    self._take(found)
        except HapsError as error:
            self._fail(error)
        except RayError as error:
            said = f"the broker's word could not be read: {first_line(error)}"
            self._fail(PoolError(said).of_kind(kind_of(error)))
        except Exception as error:
            # Whatever it is: whoever waits for an answer would wait for ever.
            self._fail(PoolError(f"asking for answers failed: {first_line(error)}").of_kind(kind_of(error)))
            raise

    def _take(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._seen = max(self._seen, outcome.number)
            asked = self._open.pop(outcome.ticket, None)
            if asked is not None and not asked.outcome.done():
                asked.outcome.set_result(outcome)

    def _fail(self, error: HapsError) -> None:
        for asked in self._open.values():
            if not asked.outcome.done():
                asked.outcome.set_exception(error)
        self._open.clear()

    def _withdraw(self, names: Sequence[str]) -> None:
        """Tell the broker what is had, so that it lets go of answers, and what is wanted no more."""
        left = [name for name in names if self._open.pop(name, None) is not None]
        self._broker.withdraw.remote(self._trial, self._epoch, self._seen, left)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """Made again while the network breaks: every call here may come twice."""

        async def called() -> Any:
            return await answer(getattr(self._broker, method).remote(*arguments), CALL_S)

        return await persistently_async(called, "the broker", CALLS)
