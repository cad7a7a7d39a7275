"""What the broker learns of nodes and the driver of workers: no Ray, and a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from brokers import answered, asked
from made import table
from ray.exceptions import RaySystemError, RpcError

from haps_search.config.engines import ClusterProfile, Leases, Resources
from haps_search.engines.cluster import broker as broker_module
from haps_search.engines.cluster import watch as watch_module
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.protocol import Done, Failure, Refusal
from haps_search.engines.cluster.watch import Node, Watch, ended_by, late_of, waits
from haps_search.errors import CandidateError, HapsError, Kind, PoolError

SILENCE_S = 100.0
PAYLOAD = ("say",)
MISSING = CandidateError("`llama` from path `x`: no such folder")


def a_broker(now: list[float]) -> Broker:
    return Broker({"llama": 1}, Leases(deadline_s=1000), SILENCE_S, lambda: now[0])


def test_what_a_worker_of_a_vanished_node_held_is_asked_again_at_once_and_answered_once() -> None:
    async def story() -> None:
        broker = a_broker([0.0])
        (waiting,) = await asked(broker, PAYLOAD)
        lost = await broker.register("llama/0", table("llama"), 1, "a", 1)
        held = await broker.exchange("llama/0", lost, None)
        assert held is not None
        assert (await broker.tend(["a", "b"])).missing == {}
        assert not waiting.done()
        assert (await broker.tend(["b"])).missing == {"llama": SILENCE_S}
        there = await broker.register("llama/1", table("llama"), 2, "b", 1)
        again = await broker.exchange("llama/1", there, None)
        assert again is not None
        assert again.payloads == (PAYLOAD,)
        handing_in = asyncio.create_task(broker.exchange("llama/1", there, answered(again)))
        assert await waiting == PAYLOAD
        handing_in.cancel()
        with pytest.raises(PoolError, match="was replaced"):
            await broker.exchange("llama/0", lost, Done(held.lease, (Failure(PoolError("late"), False),)))

    asyncio.run(asyncio.wait_for(story(), 20))


def test_the_seconds_left_count_down_from_the_loss() -> None:
    async def story() -> None:
        now = [0.0]
        broker = a_broker(now)
        session = await broker.register("llama/0", table("llama"), 1, "a", 1)
        (waiting,) = await asked(broker, PAYLOAD)
        assert session
        await broker.tend([])
        now[0] = 30.0
        assert (await broker.tend([])).missing == {"llama": 70.0}
        await broker.fail_all("over")
        assert (await broker.tend([])).ended == "over"
        with pytest.raises(PoolError, match="over"):
            await waiting

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_refusal_is_told_once_per_seat_and_holds_its_worker_until_the_end() -> None:
    async def story() -> None:
        broker = a_broker([0.0])
        seats = [asyncio.create_task(broker.refuse(f"llama/{i}", "llama", "a", MISSING)) for i in range(2)]
        await asyncio.sleep(0)
        for _ in range(2):  # a call whose answer was lost is made again
            assert (await broker.tend(["a"], 1)).refusals == (Refusal("llama", "a", MISSING),) * 2
        again = asyncio.create_task(broker.refuse("llama/1", "llama", "a", MISSING))  # its connection broke
        await asyncio.sleep(0)
        assert (await broker.tend(["a"], 2)).refusals == ()
        seats.append(again)
        assert not any(seat.done() for seat in seats)
        await broker.fail_all("over")
        await asyncio.gather(*seats)

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize("how", ["refused", "node lost", "never placed"])
def test_a_candidate_that_nobody_loads_any_more_ends_the_wait_though_nobody_asked_for_it(how: str) -> None:
    """Room elsewhere may be taken, and Train waits for it without end and without a word."""

    async def story() -> None:
        now = [0.0]
        broker = a_broker(now)
        waiting = asyncio.create_task(broker.tables())
        seats = []
        if how != "never placed":
            assert await broker.arrive("llama/0", "llama", "a")
            now[0] = 500.0
            await broker._look(now[0])
            assert (await broker.tend(["a", "b"])).missing == {}, "a worker is loading it"
            if how == "refused":
                seats.append(asyncio.create_task(broker.refuse("llama/0", "llama", "a", MISSING)))
                await asyncio.sleep(0)
        assert (await broker.tend(["b"])).missing == {"llama": SILENCE_S}
        now[0] += SILENCE_S - 1
        await broker._look(now[0])
        assert (await broker.tend(["b"])).missing == {"llama": 1.0}
        now[0] += 2
        await broker._look(now[0])
        with pytest.raises(PoolError, match="no worker of llama was placed within 100 s") as caught:
            await waiting
        assert (str(MISSING) in str(caught.value)) == (how == "refused")
        await asyncio.gather(*seats)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_candidate_that_another_worker_hosts_is_not_awaited() -> None:
    async def story() -> None:
        now = [0.0]
        broker = a_broker(now)
        await broker.register("llama/0", table("llama"), 1, "a", 1)
        refused = asyncio.create_task(broker.refuse("llama/1", "llama", "b", MISSING))
        now[0] = 10 * SILENCE_S
        await broker._look(now[0])
        assert (await broker.tend(["a", "b"])).ended is None
        await broker.fail_all("over")
        await refused

    asyncio.run(asyncio.wait_for(story(), 20))


def test_what_is_being_loaded_is_told_with_how_long_until_it_is_there() -> None:
    async def story() -> None:
        now = [0.0]
        broker = a_broker(now)
        start = await broker.arrive("llama/0", "llama", "a")
        now[0] = 40.0
        assert (await broker.tend(["a"])).loading == {"llama": 40.0}
        await broker.register("llama/0", table("llama"), 1, "a", start)
        await broker.arrive("llama/1", "llama", "a")
        assert (await broker.tend(["a"])).loading == {}, "a replica, which nobody waits for"
        await broker.fail_all("over")

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_process_that_comes_back_from_a_lost_node_does_not_take_its_follower_s_place() -> None:
    async def story() -> None:
        broker = a_broker([0.0])
        first = await broker.arrive("llama/0", "llama", "a")
        await broker.register("llama/0", table("llama"), 1, "a", first)
        second = await broker.arrive("llama/0", "llama", "b")
        session = await broker.register("llama/0", table("llama"), 2, "b", second)
        with pytest.raises(PoolError, match="worker llama/0 was replaced"):
            await broker.register("llama/0", table("llama"), 1, "a", first)
        assert await broker.register("llama/0", table("llama"), 2, "b", second) != session, "its connection broke"
        await broker.fail_all("over")

    asyncio.run(asyncio.wait_for(story(), 20))


def test_tickets_whose_answers_never_get_through_fail_with_the_reason() -> None:
    async def story() -> None:
        broker = a_broker([0.0])
        start = await broker.arrive("llama/0", "llama", "a")
        (waiting,) = await asked(broker, PAYLOAD)
        lost = ""
        while not waiting.done():
            session = await broker.register("llama/0", table("llama"), 1, "a", start, lost)
            await asyncio.sleep(0.01)
            if not waiting.done():
                await broker.exchange("llama/0", session, None)
            lost = "its answer did not get through (the store is full)"
        with pytest.raises(PoolError, match=r"attempts failed: its answer did not get through \(the store is full\)"):
            await waiting
        await broker.fail_all("over")

    asyncio.run(asyncio.wait_for(story(), 20))


class Calls:
    """Stands for the pool and for the broker's handle."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, tuple[str, ...]]] = []
        self.failed: list[tuple[str, HapsError]] = []
        self.fail_all = self

    def elsewhere(self, candidate: str, avoided: tuple[str, ...]) -> None:
        self.moved.append((candidate, avoided))

    def remote(self, reason: str, error: HapsError) -> None:
        self.failed.append((reason, error))


def test_a_candidate_goes_from_node_to_node_and_ends_the_pool_where_none_is_left() -> None:
    calls = Calls()
    watch = Watch(calls, calls, ClusterProfile(name="t", candidate=Resources(cpus=1, gpus=2)))
    nodes = [Node("a", "10.0.0.1", 4, 2), Node("b", "10.0.0.2", 4, 2), Node("head", "10.0.0.3", 4, 1)]
    watch._addresses = {node.id: node.address for node in nodes}
    watch._answer(Refusal("llama", "a", MISSING), nodes)
    assert calls.moved == [("llama", ("a",))]
    assert not calls.failed
    watch._answer(Refusal("llama", "b", MISSING), nodes)
    assert len(calls.moved) == 1, "the head has one GPU, and two are asked for"
    ((reason, error),) = calls.failed
    assert isinstance(error, CandidateError)
    assert reason == f"node 10.0.0.1, 10.0.0.2: {MISSING}; no other node has room for it"


def test_what_may_pass_is_loaded_elsewhere_too_and_ends_nothing_while_it_is_tried_again() -> None:
    calls = Calls()
    watch = Watch(calls, calls, ClusterProfile(name="t", candidate=Resources(cpus=1, gpus=2)))
    nodes = [Node("a", "10.0.0.1", 4, 2), Node("b", "10.0.0.2", 4, 2)]
    watch._addresses = {node.id: node.address for node in nodes}
    stale = CandidateError("`llama`: Stale file handle").of_kind(Kind.TRANSIENT)
    for _ in range(2):
        watch._answer(Refusal("llama", "a", stale, final=False), nodes)
    assert calls.moved == [("llama", ("a",))]
    assert watch._troubles["llama"].startswith("llama does not load on node 10.0.0.1 now: `llama`: Stale")
    watch._answer(Refusal("llama", "b", MISSING), nodes)
    assert not calls.failed, "on the first node it is tried again"
    watch._answer(Refusal("llama", "a", stale), nodes)
    assert len(calls.failed) == 1


def test_a_watch_that_breaks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> list[Node]:
        raise KeyError("a bug")

    monkeypatch.setattr(watch_module, "alive", bug)
    monkeypatch.setattr(watch_module, "EVERY_S", 0.0)
    watch = Watch(Calls(), Calls(), ClusterProfile(name="t"))
    watch.start()
    watch._thread.join()
    assert watch.ended == "the broker is gone: 'a bug'"


def test_the_line_says_what_is_asked_for_and_when_it_ends() -> None:
    profile = ClusterProfile(name="t", candidates={"llama": Resources(cpus=4, gpus=2)})
    (line,) = waits({"llama": 59.6}, profile, [Node("a", "10.0.0.1", 4, 1)])
    assert "worker of llama: it needs 2 GPUs and 4 CPUs on one of 1 nodes; ends in 60 s" in line
    just_begun = profile.worker_start_timeout_s - 5
    assert late_of({"llama": just_begun, "qwen2": 59.6}, profile) == {"qwen2": 59.6}, "a normal start is not late"


def test_a_broker_that_is_gone_has_ended() -> None:
    def gone() -> dict[str, object]:
        raise PoolError("an actor was lost")

    assert ended_by(gone) == "the broker is gone: an actor was lost"
    assert ended_by(lambda: {"ended": None}) is None

    def slow() -> dict[str, object]:
        raise PoolError("an actor has not answered for 60 s").of_kind(Kind.TRANSIENT)

    assert ended_by(slow) is None, "who does not answer now may live"

    def broken(error: Exception) -> dict[str, object]:
        raise error

    assert ended_by(partial(broken, RpcError("Broken pipe"))) is None, "nor is a call that broke off a death"
    assert ended_by(partial(broken, RaySystemError("x"))) == "the broker is gone: System error: x"
    assert ended_by(lambda: {"ended": "too late"}) == "too late"


def test_who_is_told_the_status_may_break_and_hears_of_workers_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "TICK_S", 0.001)
    monkeypatch.setattr(broker_module, "TELL_S", 0.0)
    heard: list[dict[str, bool]] = []

    def told(status: Mapping[str, Any]) -> None:
        heard.append({name: worker["serving"] for name, worker in status["workers"].items()})
        if heard[-1] == {"llama/0": False}:
            raise RuntimeError("no room for metrics")

    async def story() -> None:
        broker = Broker({"llama": 1}, Leases(deadline_s=1000), SILENCE_S, told=lambda: told)
        await broker.register("llama/0", table("llama"), 1, "a", 1)
        while not heard:
            await asyncio.sleep(0.001)
        await broker.tend([])
        while heard[-1] != {"llama/0": False}:
            await asyncio.sleep(0.001)
        count = len(heard)
        await asyncio.sleep(0.05)
        assert (await broker.status())["ended"] is None, "the pool goes on"
        assert len(heard) == count, "what broke is told no more"

    asyncio.run(asyncio.wait_for(story(), 20))
    assert heard[0] == {"llama/0": True}
