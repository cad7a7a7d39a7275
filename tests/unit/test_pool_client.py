"""A trial gets each of its answers once, whatever is lost, dropped or out of reach on the way. No Ray."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from brokers import TOKENS, Clock, Handle, Texts, Trial, answered, counted, join, leased
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError

from haps_search.config.engines import Leases
from haps_search.engines.cluster import broker as broker_module
from haps_search.engines.cluster import pool_client
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.failures import answer
from haps_search.engines.cluster.pool_client import Order, PoolClient
from haps_search.engines.cluster.protocol import Answered, Done, Lost
from haps_search.engines.cluster.tickets import DROPPED_S
from haps_search.errors import PoolError
from haps_search.faults.policy import Policy

LOST = ObjectLostError("ff", None, "")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "TRIAL_POLL_S", 0.02)
    monkeypatch.setattr(broker_module, "IDLE_POLL_S", 0.02)
    monkeypatch.setattr(pool_client, "CALLS", Policy(within_s=60.0, first_s=0.001, longest_s=0.001))


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


def make(clock: Clock | None = None, **leases: Any) -> Broker:
    return Broker({"llama": 1}, Leases(**{"deadline_s": 60, **leases}), 600.0, clock or Clock())


def order(payload: Texts, put: Callable[[], Any] | None = None) -> Order:
    return Order("llama", "sample", len(payload), TOKENS * len(payload), 0, put or (lambda: payload))


async def served(broker: Broker) -> None:
    """A worker that answers whatever comes."""
    session, done = await join(broker), None
    while True:
        work = await broker.exchange("llama/0", session, done)
        done = None if work is None else answered(work)


class Breaking(Handle):
    """A handle some of whose calls do not get through, on the way there or on the way back."""

    def __init__(self, broker: Broker, breaks: Callable[[int], str]) -> None:
        super().__init__(broker)
        self._breaks, self._calls = breaks, 0

    def __getattr__(self, name: str) -> Any:
        really = super().__getattr__(name)

        async def call(*given: Any) -> Any:
            self._calls += 1
            how = self._breaks(self._calls)
            if how == "there":
                raise ActorUnavailableError("no answer", None)
            found = await really.remote(*given)
            if how == "back":
                raise ActorUnavailableError("no answer", None)
            return found

        class Method:
            @staticmethod
            def remote(*given: Any) -> Any:
                return asyncio.ensure_future(call(*given))

        return Method


@pytest.mark.parametrize("how", ["there", "back"])
def test_calls_that_do_not_get_through_are_made_again_and_nothing_counts_twice(how: str) -> None:
    @asynchronous
    async def run() -> None:
        broker = make(rows=1)
        client = PoolClient(Breaking(broker, lambda call: how if call % 2 else ""), "t", 3)
        worker = asyncio.create_task(served(broker))
        payloads = [(f"a{i}",) for i in range(6)]
        found = await client.ask([order(payload) for payload in payloads], lambda reference: reference)
        worker.cancel()
        assert [taken.answer for taken in found] == payloads
        assert [taken.worker for taken in found] == ["llama/0"] * 6
        assert (await broker.status())["tickets"] == 6

    run()


@asynchronous
async def test_a_broker_that_stays_out_of_reach_is_the_machines_fault() -> None:
    client = PoolClient(Breaking(make(), lambda call: "there"), "t", 3)
    before, pool_client.CALLS = pool_client.CALLS, Policy(within_s=0.05, first_s=0.001, longest_s=0.001)
    try:
        with pytest.raises(PoolError, match="an actor was lost"):
            await client.ask([order(("a",))], lambda reference: reference)
    finally:
        pool_client.CALLS = before


@asynchronous
async def test_a_broker_that_died_is_not_asked_again() -> None:
    class Dead:
        def __getattr__(self, name: str) -> Any:
            async def call() -> None:
                raise ActorDiedError()

            class Method:
                remote = staticmethod(lambda *given: asyncio.ensure_future(call()))

            return Method

    with pytest.raises(PoolError, match="an actor was lost"):
        await PoolClient(Dead(), "t", 3).tables()


@asynchronous
async def test_a_lost_answer_is_asked_for_again_and_taken_once() -> None:
    broker, opened = make(), []
    client = PoolClient(Handle(broker), "t", 3)

    def fetch(reference: Texts) -> Texts:
        opened.append(reference)
        if len(opened) == 2:
            raise LOST
        return reference

    worker = asyncio.create_task(served(broker))
    payloads = [("a",), ("b",), ("c",)]
    found = await client.ask([order(payload) for payload in payloads], fetch)
    worker.cancel()
    assert [taken.answer for taken in found] == payloads
    assert len(opened) == 4
    status = await broker.status()
    assert (status["tickets"], status["lost"]) == (4, 1)


@asynchronous
async def test_a_lost_request_is_put_again() -> None:
    broker, puts = make(), iter([("lost",), ("again",)])
    session = await join(broker)
    asking = asyncio.create_task(
        PoolClient(Handle(broker), "t", 3).ask([order(("a",), lambda: next(puts))], lambda reference: reference)
    )
    work = await leased(broker, session)
    assert work.payloads == (("lost",),)
    work = await leased(broker, session, Done(work.lease, (Lost("its request was lost"),)))
    assert work.payloads == (("again",),)
    await broker.exchange("llama/0", session, answered(work))
    ((taken),) = await asking
    assert taken.answer == ("again",)
    assert (await broker.status())["lost"] == 1


@asynchronous
async def test_what_is_lost_so_often_ends_with_the_reason() -> None:
    broker = make()
    worker = asyncio.create_task(served(broker))

    def fetch(reference: Texts) -> Texts:
        raise LOST

    with pytest.raises(PoolError, match=r"a request was lost 3 times: its answer was lost"):
        await PoolClient(Handle(broker), "t", 3).ask([order(("a",))], fetch)
    worker.cancel()
    assert (await broker.status())["tickets"] == 3


@asynchronous
async def test_a_trial_whose_tickets_were_dropped_submits_them_again() -> None:
    clock = Clock()
    broker = make(clock)
    trial = Trial(broker)
    waiting = await trial.asked(("a",), ("b",))
    clock.now += DROPPED_S + 1
    broker._tickets.expire(clock.now)
    await counted(broker, "open", 2)
    assert (await broker.status())["dropped"] == 2
    waiting += await trial.asked(("c",))
    worker = asyncio.create_task(served(broker))
    assert await asyncio.gather(*waiting) == [("a",), ("b",), ("c",)]
    worker.cancel()


@asynchronous
async def test_tickets_that_were_dropped_between_two_polls_are_submitted_with_the_next_ones() -> None:
    """The next poll is of the new epoch, and would not be told."""
    clock, gate = Clock(), asyncio.Event()
    broker = make(clock)

    class Held(Handle):
        def __getattr__(self, name: str) -> Any:
            really = super().__getattr__(name)

            async def call(*given: Any) -> Any:
                found = await really.remote(*given)
                if name == "collect":
                    await gate.wait()
                return found

            class Method:
                remote = staticmethod(lambda *given: asyncio.ensure_future(call(*given)))

            return Method

    client = PoolClient(Held(broker), "t", 3)
    first = asyncio.create_task(client.ask([order(("a",))], lambda reference: reference))
    await counted(broker, "open", 1)
    await asyncio.sleep(0.05)  # the poll has ended, and its word is on the way
    clock.now += DROPPED_S + 1
    broker._tickets.expire(clock.now)
    second = asyncio.create_task(client.ask([order(("b",))], lambda reference: reference))
    await counted(broker, "open", 2)
    gate.set()
    worker = asyncio.create_task(served(broker))
    assert [taken.answer for (taken,) in await asyncio.gather(first, second)] == [("a",), ("b",)]
    worker.cancel()


@asynchronous
async def test_who_asks_no_more_withdraws_what_is_open() -> None:
    broker = make()
    (asking,) = await Trial(broker).asked(("a",))
    asking.cancel()
    await counted(broker, "open", 0)
    assert (await broker.status())["waiting"] == {"llama": 0}


@asynchronous
async def test_the_broker_lets_go_of_an_answer_as_soon_as_its_trial_has_it() -> None:
    class Answer:
        pass

    broker = make()
    session = await join(broker)
    trial = PoolClient(Handle(broker), "t", 3)
    asking = asyncio.create_task(trial.ask([order(("a",))], lambda reference: "taken"))
    work = await leased(broker, session)
    answer = Answer()
    gone = weakref.ref(answer)
    await broker.exchange("llama/0", session, Done(work.lease, (Answered(answer),)))
    del answer
    await asking
    await asyncio.sleep(0.01)
    gc.collect()
    assert gone() is None


@asynchronous
async def test_one_client_serves_many_that_ask_at_once() -> None:
    broker = make(rows=3)
    client = PoolClient(Handle(broker), "t", 3)
    worker = asyncio.create_task(served(broker))

    async def one(name: str) -> list[Texts]:
        orders = [order((f"{name}{i}",)) for i in range(5)]
        return [taken.answer for taken in await client.ask(orders, lambda reference: reference)]

    found = await asyncio.gather(*(one(name) for name in "abcdefgh"))
    worker.cancel()
    assert found == [[(f"{name}{i}",) for i in range(5)] for name in "abcdefgh"]


@asynchronous
async def test_a_trial_told_to_leave_as_an_answer_comes_leaves() -> None:
    reference: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(answer(reference, 10.0))
    await asyncio.sleep(0)
    reference.set_result("here")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
