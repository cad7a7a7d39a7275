"""A broker in this process, and trials that ask it as they do on Ray; payloads are tuples of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.pool_client import Order, PoolClient
from haps_search.engines.cluster.protocol import Answered, Done, Failure, Work
from haps_search.errors import HapsError
from haps_search.types import ModuleTable

TOKENS = 4
"""Of each text."""


Texts = tuple[str, ...]


class Clock:
    """Moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Handle:
    """Stands for an actor's handle: a call begins at once, whether it is awaited or not."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: asyncio.ensure_future(getattr(self._broker, name)(*given)))


class Trial:
    """Asks a broker by the client that trials have on Ray."""

    def __init__(self, broker: Any, name: str = "trial", attempts: int = 3) -> None:
        self._broker = broker
        self.client = PoolClient(Handle(broker), name, attempts)

    async def asked(self, *payloads: Texts, candidate: str = "llama") -> list[asyncio.Task[Texts]]:
        """A task per payload, once the broker has them all."""
        before = (await self._broker.status())["tickets"]
        tasks = [asyncio.create_task(self.answer(payload, candidate)) for payload in payloads]

        async def there() -> bool:
            return (await self._broker.status())["tickets"] >= before + len(payloads)

        await until(there)
        return tasks

    async def answer(self, payload: Texts, candidate: str = "llama") -> Texts:
        order = Order(candidate, "sample", len(payload), TOKENS * len(payload), 0, lambda: payload)
        ((taken),) = await self.client.ask([order], lambda reference: reference)
        return taken.answer


TRIALS: WeakKeyDictionary[Broker, Trial] = WeakKeyDictionary()


async def asked(broker: Broker, *payloads: Texts, candidate: str = "llama") -> list[asyncio.Task[Texts]]:
    """The same by one trial, whenever it is called."""
    trial = TRIALS.setdefault(broker, Trial(broker))
    return await trial.asked(*payloads, candidate=candidate)


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.002)


async def counted(broker: Broker, name: str, value: int) -> None:
    async def reached() -> bool:
        return (await broker.status())[name] == value

    await until(reached)


async def join(broker: Broker, worker: str = "llama/0", candidate: str = "llama") -> int:
    start = await broker.arrive(worker, candidate)
    assert start
    return await broker.register(worker, ModuleTable(candidate, 2, ()), 7, "node", start)


async def leased(broker: Broker, session: int, done: Done | None = None, worker: str = "llama/0") -> Work:
    """The next lease, past exchanges that came back empty."""
    while (work := await broker.exchange(worker, session, done)) is None:
        done = None
    return work


def answered(work: Work) -> Done:
    """The answers that belong to these payloads and to no other."""
    return Done(work.lease, tuple(Answered(payload) for payload in work.payloads))


def failed(work: Work, error: HapsError, final: bool) -> Done:
    return Done(work.lease, tuple(Failure(error, final) for _ in work.payloads))


def texts(payloads: Iterable[Texts]) -> list[list[str]]:
    return [list(payload) for payload in payloads]
