"""The broker: every ticket is answered once, whatever the workers do. No Ray, and a clock that tests move."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from brokers import Clock, Texts, Trial, answered, asked, counted, failed, join, leased, texts, until

from haps_search.config.engines import Leases
from haps_search.engines.cluster import broker as broker_module
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.protocol import Answered, Done, Failure, Result
from haps_search.errors import CandidateError, Kind, PoolError
from haps_search.types import ModuleTable

# Time is looked at every quarter of a deadline of real time; what has expired the test's clock says.
DEADLINE_S = 0.02
SILENCE_S = 100.0


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "IDLE_POLL_S", 0.02)
    monkeypatch.setattr(broker_module, "TRIAL_POLL_S", 0.02)


@pytest.fixture
def long_polls(short_polls: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "IDLE_POLL_S", 60.0)


def make(*names: str, clock: Clock | None = None, **leases: Any) -> Broker:
    settings = Leases(**{"deadline_s": DEADLINE_S, **leases})
    return Broker(dict.fromkeys(names or ("llama",), 1), settings, SILENCE_S, clock or Clock())


def test_the_broker_needs_no_ray() -> None:
    code = "import sys, haps_search.engines.cluster.broker; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@asynchronous
async def test_tickets_of_different_trials_share_a_lease_in_the_order_they_came() -> None:
    broker = make(rows=5)
    session = await join(broker)
    waiting = await asked(broker, ("a", "b"), ("c",), ("d", "e"), ("f",))
    first = await leased(broker, session)
    assert texts(first.payloads) == [["a", "b"], ["c"], ["d", "e"]]
    second = await leased(broker, session, answered(first))
    assert texts(second.payloads) == [["f"]]
    assert await broker.exchange("llama/0", session, answered(second)) is None
    assert texts(await asyncio.gather(*waiting)) == [["a", "b"], ["c"], ["d", "e"], ["f"]]


@asynchronous
async def test_a_ticket_larger_than_a_lease_goes_alone() -> None:
    broker = make(rows=2)
    session = await join(broker)
    await asked(broker, ("a", "b", "c"), ("d",))
    assert texts((await leased(broker, session)).payloads) == [["a", "b", "c"]]


@asynchronous
async def test_a_worker_gets_tickets_of_its_own_candidate_only() -> None:
    broker = make("llama", "qwen2")
    session = await join(broker)
    await asked(broker, ("for qwen2",), candidate="qwen2")
    await asked(broker, ("for llama",))
    assert texts((await leased(broker, session)).payloads) == [["for llama"]]
    assert (await broker.status())["waiting"] == {"llama": 0, "qwen2": 1}


@pytest.mark.usefixtures("long_polls")
@asynchronous
async def test_a_waiting_worker_is_woken_by_a_ticket() -> None:
    broker = make()
    session = await join(broker)
    worker = asyncio.create_task(broker.exchange("llama/0", session, None))
    await asyncio.sleep(0.005)
    await asked(broker, ("a",))
    work = await asyncio.wait_for(worker, 1)
    assert work is not None
    assert texts(work.payloads) == [["a"]]


@asynchronous
async def test_an_idle_worker_comes_back_empty() -> None:
    broker = make()
    assert await broker.exchange("llama/0", await join(broker), None) is None


@asynchronous
async def test_a_ticket_not_answered_in_time_goes_first_to_the_next_lease() -> None:
    clock = Clock()
    broker = make(clock=clock, rows=2)
    session = await join(broker)
    waiting = await asked(broker, ("a",), ("b",))
    await leased(broker, session)
    waiting += await asked(broker, ("c",))
    clock.now += 2 * DEADLINE_S
    await counted(broker, "requeued", 2)
    again = await leased(broker, session)
    assert texts(again.payloads) == [["a"], ["b"]]
    assert not any(w.done() for w in waiting)


@asynchronous
async def test_a_late_right_answer_counts_and_is_not_asked_for_again() -> None:
    clock = Clock()
    broker = make(clock=clock, rows=2)
    session = await join(broker)
    waiting = await asked(broker, ("a",), ("b",))
    slow = await leased(broker, session)
    waiting += await asked(broker, ("c",))
    clock.now += 2 * DEADLINE_S
    await counted(broker, "requeued", 2)
    again = await leased(broker, session, answered(slow))
    assert texts(again.payloads) == [["c"]]
    assert (await broker.status())["late"] == 1
    assert texts(await asyncio.gather(*waiting[:2])) == [["a"], ["b"]]
    assert not waiting[2].done()
    await broker.exchange("llama/0", session, answered(again))
    assert texts(await asyncio.gather(*waiting)) == [["a"], ["b"], ["c"]]


@asynchronous
async def test_a_lease_within_its_deadline_is_left_alone() -> None:
    clock = Clock()
    broker = make(clock=clock)
    session = await join(broker)
    await asked(broker, ("a",))
    await leased(broker, session)
    clock.now += 0.9 * DEADLINE_S
    await asyncio.sleep(DEADLINE_S)
    assert (await broker.status())["leased"] == 1


@asynchronous
async def test_an_outcome_handed_in_twice_counts_once() -> None:
    broker = make()
    session = await join(broker)
    (waiting,) = await asked(broker, ("a",))
    work = await leased(broker, session)
    await broker.exchange("llama/0", session, answered(work))
    await broker.exchange("llama/0", session, Done(work.lease, (Answered(("forged",)),)))
    assert texts([await waiting]) == [["a"]]
    assert (await broker.status())["late"] == 1


@asynchronous
async def test_after_so_many_attempts_the_last_problem_is_the_answer() -> None:
    broker = make(attempts=2)
    session = await join(broker)
    (waiting,) = await asked(broker, ("a",))
    work = await leased(broker, session)
    work = await leased(broker, session, failed(work, PoolError("first problem"), final=False))
    assert not waiting.done()
    await broker.exchange("llama/0", session, failed(work, PoolError("last problem"), final=False))
    with pytest.raises(PoolError, match=r"llama: 2 attempts failed: last problem$"):
        await waiting
    assert (await broker.status())["requeued"] == 1


@asynchronous
async def test_a_final_failure_answers_its_own_ticket_at_once_and_no_other() -> None:
    broker = make()
    session = await join(broker)
    good, bad = await asked(broker, ("a",), ("b",))
    work = await leased(broker, session)
    refusal = CandidateError("the prompt is too long")
    await broker.exchange("llama/0", session, Done(work.lease, (Answered(("a",)), Failure(refusal, final=True))))
    with pytest.raises(CandidateError, match="too long") as caught:
        await bad
    assert caught.value is refusal
    assert texts([await good]) == [["a"]]


@pytest.mark.parametrize("how", ["arrive", "register"])
def test_what_a_replaced_worker_held_is_given_to_others(how: str) -> None:
    @asynchronous
    async def run() -> None:
        broker = make()
        old = await join(broker)
        (waiting,) = await asked(broker, ("a",))
        await asyncio.sleep(0)
        work = await leased(broker, old)
        if how == "arrive":
            await broker.arrive("llama/0", "llama")
        else:
            await broker.register("llama/0", ModuleTable("llama", 2, ()), 8, "node", 1)
        assert (await broker.status())["waiting"] == {"llama": 1}
        other = await join(broker, "llama/1")
        again = await leased(broker, other, worker="llama/1")
        with pytest.raises(PoolError, match="llama/0 was replaced"):
            await broker.exchange("llama/0", old, Done(work.lease, (Answered(("from the dead",)),)))
        await broker.exchange("llama/1", other, answered(again))
        assert texts([await waiting]) == [["a"]]

    run()


@asynchronous
async def test_answers_that_the_machines_lost_are_theirs_and_those_that_died_with_a_worker_are_nobodys() -> None:
    broker = make(attempts=1)
    causes = {"llama/0": ("its answer did not get through (no room)", Kind.TRANSIENT), "llama/1": ("", Kind.UNKNOWN)}
    for worker, (lost, kind) in causes.items():
        session = await join(broker, worker)
        (waiting,) = await asked(broker, ("a",))
        await leased(broker, session, worker=worker)
        await broker.register(worker, ModuleTable("llama", 2, ()), 8, "node", 1, lost)
        with pytest.raises(PoolError, match="1 attempts failed") as caught:
            await waiting
        assert caught.value.kind is kind


@pytest.mark.usefixtures("long_polls")
@asynchronous
async def test_a_worker_replaced_while_it_waits_for_work_leases_none() -> None:
    broker = make()
    old = await join(broker)
    ghost = asyncio.create_task(broker.exchange("llama/0", old, None))
    await asyncio.sleep(0.005)
    new = await join(broker)
    await asked(broker, ("a",))
    with pytest.raises(PoolError, match="replaced"):
        await asyncio.wait_for(ghost, 1)
    assert texts((await leased(broker, new)).payloads) == [["a"]]


@pytest.mark.usefixtures("long_polls")
@asynchronous
async def test_who_was_replaced_while_it_waited_leaves_its_turn_to_another() -> None:
    broker = make()
    old, other = await join(broker), await join(broker, "llama/1")
    ghost = asyncio.create_task(broker.exchange("llama/0", old, None))
    await asyncio.sleep(0.005)
    idle = asyncio.create_task(broker.exchange("llama/1", other, None))
    await asyncio.sleep(0.005)
    await broker.arrive("llama/0", "llama")
    await asked(broker, ("a",))
    work = await asyncio.wait_for(idle, 1)
    assert work is not None
    with pytest.raises(PoolError, match="replaced"):
        await ghost


@asynchronous
async def test_the_end_is_told_without_the_way_of_those_who_heard_of_it_before() -> None:
    broker = make()
    await broker.fail_all("over")
    ways = []
    for _ in range(3):
        with pytest.raises(PoolError, match="over") as caught:
            await broker.submit("trial", [])
        ways.append(len(caught.traceback))
    assert len(set(ways)) == 1


@asynchronous
async def test_of_a_trial_that_vanished_nothing_is_kept() -> None:
    clock = Clock()
    broker = make(clock=clock)
    trial = Trial(broker, "gone")
    (waiting,) = await trial.asked(("a",))
    await until(lambda: holds(broker, "gone"))
    waiting.cancel()
    trial.client._open.clear()
    clock.now += 1000.0
    await broker._look(clock.now)
    assert not broker._news


async def holds(broker: Broker, trial: str) -> bool:
    return trial in broker._news


@asynchronous
async def test_a_stranger_is_turned_away() -> None:
    with pytest.raises(PoolError, match="nobody/0 was replaced"):
        await make().exchange("nobody/0", 1, None)


@asynchronous
async def test_one_restart_too_many_ends_the_pool() -> None:
    broker = make(restarts=2)
    (waiting,) = await asked(broker, ("a",))
    for _ in range(3):
        await join(broker)
    assert not waiting.done()
    assert not await broker.arrive("llama/0", "llama")
    with pytest.raises(PoolError, match=r"llama/0 of candidate llama died 3 times.*leases\.restarts"):
        await waiting


@asynchronous
async def test_a_worker_is_judged_by_what_it_achieves_between_its_deaths() -> None:
    broker = make(restarts=1)
    for number in range(12):
        (waiting,) = await asked(broker, (f"a{number}",))
        await join(broker)  # it dies before it answers, and then it answers and dies
        session = await join(broker)
        work = await broker.exchange("llama/0", session, None)
        assert work is not None
        handing_in = asyncio.create_task(broker.exchange("llama/0", session, answered(work)))
        assert await waiting == (f"a{number}",)
        handing_in.cancel()
    assert (await broker.status())["ended"] is None


@asynchronous
async def test_what_is_lost_with_its_node_is_no_death_of_a_worker() -> None:
    broker = make(restarts=1)
    (waiting,) = await asked(broker, ("a",))
    for node in map(str, range(12)):
        assert await broker.arrive("llama/0", "llama", node)
        await broker.tend([node])
        await broker.tend([])
    assert not waiting.done()


@asynchronous
async def test_a_crash_loop_beside_a_worker_that_serves_ends_nothing() -> None:
    broker = make(restarts=1)
    await join(broker, worker="llama/1")
    for _ in range(2):
        assert await broker.arrive("llama/0", "llama")
    assert not await broker.arrive("llama/0", "llama"), "it is to leave"
    assert (await broker.status())["ended"] is None


@asynchronous
async def test_a_worker_that_was_taken_for_hung_registers_again_when_it_wakes() -> None:
    clock = Clock()
    broker = make(clock=clock)
    (waiting,) = await asked(broker, ("a",))
    session = await join(broker)
    held = await broker.exchange("llama/0", session, None)
    assert held is not None
    clock.now += SILENCE_S
    assert [h.worker for h in (await broker.tend(["node"])).hung] == ["llama/0"]
    with pytest.raises(PoolError, match="was replaced"):
        await broker.exchange("llama/0", session, None)
    again = await broker.register("llama/0", ModuleTable("llama", 2, ()), 7, "node", 1)
    work = await leased(broker, again)  # once the trial was heard of since
    handing_in = asyncio.create_task(broker.exchange("llama/0", again, answered(work)))
    assert await waiting == ("a",)
    handing_in.cancel()


@asynchronous
async def test_a_clock_that_stops_is_told_to_everyone_who_waits() -> None:
    broker = make()
    (waiting,) = await asked(broker, ("a",))

    def broken(now: float) -> None:
        raise RuntimeError("a bug")

    broker._tickets.expire = broken  # type: ignore[method-assign]
    with pytest.raises(PoolError, match=r"the broker's clock stopped \(RuntimeError: a bug\)"):
        await waiting
    with pytest.raises(RuntimeError, match="a bug"):
        await broker._ticking  # type: ignore[misc]


@asynchronous
async def test_a_process_that_dies_while_it_loads_is_counted_too() -> None:
    broker = make(restarts=1)
    tables = asyncio.create_task(broker.tables())
    assert await broker.arrive("llama/0", "llama")
    assert await broker.arrive("llama/0", "llama")
    assert not await broker.arrive("llama/0", "llama")
    with pytest.raises(PoolError, match="died 2 times"):
        await tables


@asynchronous
async def test_the_end_of_the_pool_reaches_everyone() -> None:
    clock = Clock()
    broker = make("llama", "qwen2", clock=clock)
    session = await join(broker)
    (held,) = await asked(broker, ("a",))
    work = await leased(broker, session)
    (queued,) = await asked(broker, ("b",))
    tables = asyncio.create_task(broker.tables())
    await asyncio.sleep(0)
    await broker.fail_all("power cut")
    await broker.fail_all("a later reason")
    for waiting in (held, queued, tables, broker.submit("t", []), broker.tables()):
        with pytest.raises(PoolError, match="power cut"):
            await waiting
    with pytest.raises(PoolError, match="power cut"):
        await broker.exchange("llama/0", session, answered(work))
    assert (await broker.status())["ended"] == "power cut"


@pytest.mark.usefixtures("long_polls")
@asynchronous
async def test_workers_hear_of_the_end_at_once() -> None:
    broker = make()
    session = await join(broker)
    idle = asyncio.create_task(broker.exchange("llama/0", session, None))
    await asyncio.sleep(0.005)
    await broker.fail_all("the session ended")
    with pytest.raises(PoolError, match="session ended"):
        await asyncio.wait_for(idle, 1)
    with pytest.raises(PoolError, match="session ended"):  # one that was busy meanwhile
        await asyncio.wait_for(broker.exchange("llama/0", session, None), 1)


@asynchronous
async def test_tables_wait_for_every_candidate() -> None:
    broker = make("llama", "qwen2")
    tables = asyncio.create_task(broker.tables())
    await join(broker)
    await asyncio.sleep(0.005)
    assert not tables.done()
    await join(broker, "qwen2/0", "qwen2")
    assert set(await tables or await broker.tables() or ()) == {"llama", "qwen2"}


@asynchronous
async def test_a_candidate_that_never_loads_is_named_by_its_own_error() -> None:
    broker = make("llama", "qwen2")
    tables = asyncio.create_task(broker.tables())
    await join(broker)
    await broker.fail_all("qwen2: no such folder", CandidateError("qwen2: no such folder"))
    for waiting in (tables, broker.tables()):
        with pytest.raises(CandidateError, match="no such folder"):
            await waiting


@asynchronous
async def test_a_candidate_that_loaded_once_and_then_does_not_is_the_machines_fault() -> None:
    broker = make()
    await join(broker)
    (waiting,) = await asked(broker, ("a",))
    await asyncio.sleep(0)
    await broker.fail_all("llama: no such folder", CandidateError("llama: no such folder"))
    for each in (waiting, broker.tables(), broker.submit("llama", ("b",))):
        with pytest.raises(PoolError, match="no such folder"):
            await each


@asynchronous
async def test_silence_of_all_workers_ends_the_pool_when_somebody_waits() -> None:
    clock = Clock()
    broker = make(clock=clock)
    await join(broker)
    clock.now += 10 * SILENCE_S
    (hung,) = (await broker.tend(["node"])).hung
    assert hung.worker == "llama/0"
    assert (await broker.tend(["node"])).hung == (), "it is ended once"
    clock.now += 10 * SILENCE_S
    await asyncio.sleep(2 * DEADLINE_S)  # nobody waits, so nobody is missed
    assert (await broker.status())["ended"] is None
    (waiting,) = await asked(broker, ("a",))
    await asyncio.sleep(2 * DEADLINE_S)
    assert not waiting.done()
    for _ in range(22):  # the trial is heard of meanwhile
        clock.now += 0.05 * SILENCE_S
        await asyncio.sleep(0.03)
    with pytest.raises(PoolError, match="no worker of candidate llama was heard of for 100 s"):
        await waiting


@asynchronous
async def test_a_busy_worker_is_not_silent() -> None:
    clock = Clock()
    broker = make(clock=clock, deadline_s=10 * SILENCE_S)
    session = await join(broker)
    await asked(broker, ("a",))
    await leased(broker, session)
    await asked(broker, ("b",))
    for _ in range(30):
        clock.now += 0.05 * SILENCE_S
        await asyncio.sleep(0.03)
    assert (await broker.status())["ended"] is None


@asynchronous
async def test_a_ticket_whose_trial_is_gone_is_not_leased() -> None:
    broker = make()
    session = await join(broker)
    gone, stays = await asked(broker, ("gone",), ("stays",))
    gone.cancel()
    await counted(broker, "open", 1)
    work = await leased(broker, session)
    assert texts(work.payloads) == [["stays"]]
    await broker.exchange("llama/0", session, answered(work))
    assert texts([await stays]) == [["stays"]]


@asynchronous
async def test_an_answer_to_a_trial_that_left_meanwhile_disturbs_nobody() -> None:
    broker = make()
    session = await join(broker)
    gone, stays = await asked(broker, ("gone",), ("stays",))
    work = await leased(broker, session)
    gone.cancel()
    await asyncio.sleep(0)
    await broker.exchange("llama/0", session, answered(work))
    assert texts([await stays]) == [["stays"]]


@asynchronous
async def test_an_unknown_candidate_is_refused_with_those_there_are() -> None:
    with pytest.raises(PoolError, match="no candidate gpt in this pool: it hosts llama, qwen2"):
        await Trial(make("llama", "qwen2")).answer(("a",), "gpt")


@asynchronous
async def test_a_lease_keeps_to_the_room_of_its_worker_and_a_narrowed_room_is_counted() -> None:
    """Each of these tickets has four tokens a row."""
    broker = make()
    session = await join(broker)
    waiting = await asked(broker, ("a",), ("b",), ("c", "d", "e"), ("f",))
    first = await broker.exchange("llama/0", session, None, 11)
    assert first is not None
    assert texts(first.payloads) == [["a"], ["b"]]
    second = await broker.exchange("llama/0", session, answered(first), 5)
    assert second is not None
    assert texts(second.payloads) == [["c", "d", "e"]], "one ticket always goes"
    third = await broker.exchange("llama/0", session, answered(second), 10)
    assert third is not None
    await broker.exchange("llama/0", session, answered(third), 10)
    assert texts(await asyncio.gather(*waiting)) == [["a"], ["b"], ["c", "d", "e"], ["f"]]
    status = await broker.status()
    assert status["narrowed"] == 1
    assert status["workers"]["llama/0"]["room"] == 10  # type: ignore[index]


@asynchronous
async def test_a_flood_of_one_trial_leaves_the_other_its_share_of_each_lease() -> None:
    """The fast trial has all its tickets waiting, the slow one asks for the next when it has its answer."""
    broker = make(rows=8)
    session = await join(broker)
    flood = await Trial(broker, "fast").asked(*((f"f{i}",) for i in range(200)))
    leases: list[list[str]] = []
    other = Trial(broker, "slow")

    async def slow() -> None:
        for turn in range(10):
            await asyncio.gather(*await other.asked(*((f"s{turn}.{i}",) for i in range(4))))

    waiting, done = asyncio.create_task(slow()), None
    turns = 1
    while True:
        work = await leased(broker, session, done)
        turns += bool(leases) and "s" in "".join(leases[-1])
        leases.append([text for part in texts(work.payloads) for text in part])
        done = answered(work)
        if turns > 10:
            break
        await counted(broker, "tickets", 200 + 4 * turns)  # the slow one has heard its answers and asks again
    await waiting
    shares = [sum(text.startswith("s") for text in lease) for lease in leases]
    assert shares == [0, *[4, 0] * 10][: len(shares)], "what it asks for after a lease was cut comes in the next"
    assert not all(task.done() for task in flood)
    for task in flood:
        task.cancel()


@asynchronous
async def test_prompts_that_workers_still_had_are_counted() -> None:
    broker = make()
    session = await join(broker)
    (waiting,) = await asked(broker, ("a", "b"))
    work = await leased(broker, session)
    await broker.exchange("llama/0", session, Done(work.lease, (Answered(("a", "b"), known=1),)))
    await waiting
    assert (await broker.status())["known"] == 1


@asynchronous
async def test_status_counts_what_happened() -> None:
    broker = make()
    session = await join(broker)
    await join(broker)
    session = await join(broker)
    await asked(broker, ("a", "b"), ("c",))
    await leased(broker, session)
    await asked(broker, ("d",))
    status = await broker.status()
    assert {k: status[k] for k in ("tickets", "rows", "leases", "requeued", "late", "leased")} == {
        "tickets": 3, "rows": 4, "leases": 1, "requeued": 0, "late": 0, "leased": 1,
    }  # fmt: skip
    assert status["waiting"] == {"llama": 1}
    assert status["workers"] == {
        "llama/0": {
            "candidate": "llama", "pid": 7, "node": "node", "registrations": 3, "room": math.inf, "serving": True,
        },
    }  # fmt: skip
    assert status["ended"] is None


class Unruly:
    """A worker that answers, answers late, answers twice, fails, or vanishes and is started again."""

    def __init__(self, broker: Broker, name: str, chance: random.Random) -> None:
        self.broker, self.name, self.chance = broker, name, chance

    async def live(self) -> None:
        while True:
            try:
                await self._life()
            except PoolError as error:
                if "replaced" not in str(error):
                    raise

    async def _life(self) -> None:
        session = await join(self.broker, self.name)
        done: Done | None = None
        while True:
            work = await self.broker.exchange(self.name, session, done)
            done = None
            if work is None:
                continue
            fate = self.chance.random()
            if fate < 0.15:
                return  # vanished with its lease
            if fate < 0.3:
                await asyncio.sleep(4 * DEADLINE_S)  # late
            if fate < 0.45:
                await self.broker.exchange(self.name, session, answered(work))  # and again below
            wrong = Failure(PoolError("out of memory"), final=False)
            results: list[Result] = [wrong if self.chance.random() < 0.1 else Answered(p) for p in work.payloads]
            done = Done(work.lease, tuple(results))


@pytest.mark.parametrize("seed", range(4))
def test_with_unruly_workers_every_ticket_is_answered_exactly_once(seed: int) -> None:
    chance = random.Random(seed)

    @asynchronous
    async def run() -> None:
        settings = Leases(deadline_s=DEADLINE_S, attempts=1000, rows=6, restarts=10_000)
        broker = Broker({"llama": 3}, settings)
        workers = [asyncio.create_task(Unruly(broker, f"llama/{i}", chance).live()) for i in range(3)]
        payloads = [tuple(f"{n}.{row}" for row in range(chance.randint(1, 4))) for n in range(60)]
        waiting: list[asyncio.Task[Texts]] = []
        trials = [Trial(broker, f"trial-{n}") for n in range(3)]
        for payload in payloads:
            waiting += await chance.choice(trials).asked(payload)
            await asyncio.sleep(chance.random() * 0.004)
        answers = await asyncio.gather(*waiting)
        status = await broker.status()
        for worker in workers:
            worker.cancel()
        assert list(answers) == payloads
        assert status["tickets"] == 60
        assert status["waiting"] == {"llama": 0}
        assert status["requeued"] > 0, "the workers behaved"

    run()


def test_with_few_attempts_every_ticket_gets_its_answer_or_the_reason() -> None:
    chance = random.Random(5)

    @asynchronous
    async def run() -> None:
        broker = Broker({"llama": 2}, Leases(deadline_s=DEADLINE_S, attempts=2, rows=3, restarts=10_000))
        workers = [asyncio.create_task(Unruly(broker, f"llama/{i}", chance).live()) for i in range(2)]
        payloads = [(str(n),) for n in range(40)]
        answers = await asyncio.gather(*await asked(broker, *payloads), return_exceptions=True)
        for worker in workers:
            worker.cancel()
        errors = [a for a in answers if isinstance(a, BaseException)]
        assert 0 < len(errors) < 40
        assert all(isinstance(e, PoolError) and "2 attempts failed" in str(e) for e in errors)
        right = [(a, p) for a, p in zip(answers, payloads, strict=True) if isinstance(a, tuple)]
        assert [a for a, _ in right] == [p for _, p in right]

    run()


@asynchronous
async def test_a_pool_that_cannot_be_placed_says_so() -> None:
    clock = Clock()
    broker = make(clock=clock)
    await broker._look(clock.now)
    clock.now += 601.0
    await broker._look(clock.now)
    with pytest.raises(PoolError, match=r"no worker of .* was placed within"):
        await broker.tables()
