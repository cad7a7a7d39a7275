"""Tickets on a real Ray: what is open is bounded by nobody's calls, and what dies in between costs no answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from benchmarks.echo import NAME, Echo, Impatient, Pool, echoes, kill, requests
from haps_search.engines.cluster.pool_client import Order, PoolClient
from haps_search.engines.cluster.store import LOST, get_requests, get_sampled, put_requests
from haps_search.engines.cluster.wire import pack_sample

pytestmark = pytest.mark.ray
LIMIT = 20


@pytest.fixture
def pools(running_ray: None) -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(**given: Any) -> Pool:
        made.append(Pool(**given))
        return made[-1]

    yield make
    for pool in made:
        pool.end()


def test_ten_times_as_many_tickets_as_the_broker_takes_calls_are_open_and_all_are_answered(
    pools: Callable[..., Pool],
) -> None:
    """Where each open request holds a call, nobody can hand in the first answer."""
    pool = pools(calls=LIMIT, leases={"rows": 1})
    trials = {prefix: pool.trial(prefix, 10 * LIMIT // 4) for prefix in ("a", "b", "c", "d")}
    pool.until(lambda status: status["open"] == 10 * LIMIT)
    pool.worker()
    for prefix, (_, answered) in trials.items():
        assert ray.get(answered, timeout=120) == echoes(requests(prefix, 10 * LIMIT // 4))
    assert pool.status()["tickets"] == 10 * LIMIT


def test_what_a_killed_trial_has_waiting_is_not_leased(pools: Callable[..., Pool]) -> None:
    pool = pools(leases={"rows": 1})
    victim, _ = pool.trial("dead", 50)
    pool.until(lambda status: status["waiting"][NAME] == 50)
    kill(victim)
    time.sleep(20)
    broker = pool.broker
    start = ray.get(broker.arrive.remote("by hand", NAME))
    session = ray.get(broker.register.remote("by hand", Echo.table, 1, "node", start))
    assert ray.get(broker.exchange.remote("by hand", session, None), timeout=30) is None
    _, answered = pool.trial("alive", 3)
    work = ray.get(broker.exchange.remote("by hand", session, None), timeout=30)
    assert work is not None, "a trial that lives is served beside it"
    pool.worker()
    assert ray.get(broker.register.remote("by hand", Echo.table, 1, "node", start))  # gives back what it held
    assert ray.get(answered, timeout=60) == echoes(requests("alive", 3))
    assert pool.status()["tickets"] == 53
    assert pool.status()["rows"] == 53
    assert pool.status()["leases"] <= 2 * 3, "none of the fifty was leased"


def test_a_trial_that_stands_still_until_it_is_dropped_loses_nothing(pools: Callable[..., Pool]) -> None:
    pool = pools(broker=Impatient, leases={"rows": 2}, silent_s=1.0, dropped_s=3.0)
    _, slow = pool.trial("slow", 40, frozen_s=8.0)
    pool.until(lambda status: status["dropped"] == 20)
    pool.worker()
    assert ray.get(slow, timeout=60) == echoes(requests("slow", 40))


def test_workers_killed_in_between_cost_no_answer_and_none_counts_twice(pools: Callable[..., Pool]) -> None:
    pool = pools(workers=2, leases={"rows": 4, "attempts": 20})
    workers = {name: pool.worker(name, seconds=0.1) for name in ("echo/a", "echo/b")}
    spares = pool.processes(3)  # they take their time to start, and what is asked for would be answered meanwhile
    trials = {prefix: pool.trial(prefix, 400) for prefix in ("a", "b", "c")}
    for name in ("echo/a", "echo/b", "echo/a"):
        leases = pool.status()["leases"]
        pool.until(lambda status, before=leases: status["leases"] > before + 5)  # type: ignore[misc]
        kill(workers[name])
        workers[name] = pool.work(spares.pop(), name, seconds=0.1)
    for prefix, (_, answered) in trials.items():
        assert ray.get(answered, timeout=240) == echoes(requests(prefix, 400))
    status = pool.status()
    assert status["requeued"] > 0, "nothing was held when they died"
    assert status["open"] == 0
    assert status["tickets"] == 3 * 100 + status["lost"]


class Owner:
    """A process whose objects die with it."""

    def put(self, parcel: Any) -> list[Any]:
        return [put_requests(parcel)]


def until_it_is_gone(reference: Any) -> None:
    """An owner's death reaches the store some time after its call returned."""

    def tried() -> bool:
        try:
            get_requests([reference])
        except LOST:
            return True
        return False

    while not ray.get(ray.remote(tried).options(num_cpus=0).remote(), timeout=120):
        time.sleep(0.2)


def asked(pool: Pool, put: Callable[[], Any], opened: Callable[[Any], Any] = get_sampled) -> list[str]:
    async def once() -> list[str]:
        client = PoolClient(pool.broker, "t", 3)
        (taken,) = await client.ask([Order(NAME, "sample", 2, 20, 0, put)], opened)
        return [sampled.text for sampled in taken.answer.samples]

    return asyncio.run(asyncio.wait_for(once(), 120))


def test_a_request_whose_owner_died_is_put_again(pools: Callable[..., Pool]) -> None:
    pool = pools()
    pool.worker()
    owner: Any = ray.remote(Owner).options(num_cpus=0).remote()
    parcel = pack_sample(requests("r", 2))
    lost = ray.get(owner.put.remote(parcel))
    ray.kill(owner)
    until_it_is_gone(lost[0])
    puts = iter([lambda: lost[0], lambda: put_requests(parcel)])
    assert asked(pool, lambda: next(puts)()) == ["R0", "R1"]
    assert pool.status()["lost"] == 1


def test_an_answer_whose_worker_died_before_it_was_fetched_is_asked_for_again(pools: Callable[..., Pool]) -> None:
    pool = pools()
    pid = pool.worker()
    fetches: list[Any] = []

    def opened(reference: Any) -> Any:
        fetches.append(reference)
        if len(fetches) == 1:
            kill(pid)
            time.sleep(2)
            pool.worker()
        return get_sampled(reference)

    assert asked(pool, lambda: put_requests(pack_sample(requests("r", 2))), opened) == ["R0", "R1"]
    assert len(fetches) == 2
    assert pool.status()["lost"] == 1
