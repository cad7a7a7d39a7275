"""The broker: every parcel is answered once, whatever the workers do. No Ray, and a clock that tests move."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import pytest

from haps_search.config.engines import Leases
from haps_search.engines.cluster import broker as broker_module
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.wire import (
    AnswerParcel,
    Done,
    Failure,
    RequestParcel,
    SampledParcel,
    SampleParcel,
    Work,
    pack_sample,
)
from haps_search.errors import CandidateError, HapsError, PoolError
from haps_search.types import Message, ModuleTable, Sampled, SampleRequest, Sampling

# The reaper looks every quarter of a deadline of real time; what has expired the test's clock says.
DEADLINE_S = 0.02
SILENCE_S = 100.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "IDLE_POLL_S", 0.02)


@pytest.fixture
def long_polls(short_polls: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "IDLE_POLL_S", 60.0)


def make(*names: str, clock: Clock | None = None, **leases: Any) -> Broker:
    settings = Leases(**{"deadline_s": DEADLINE_S, **leases})
    return Broker(dict.fromkeys(names or ("llama",), 1), settings, SILENCE_S, clock or Clock())


def parcel(*texts: str) -> SampleParcel:
    return pack_sample([SampleRequest((Message("user", text),), Sampling(4)) for text in texts])


def said(*texts: str) -> SampledParcel:
    return SampledParcel(tuple(Sampled(text, (1,), (-1.0,), 1, 1) for text in texts))


def echo(asked: RequestParcel) -> SampledParcel:
    """The answer that belongs to this parcel and to no other."""
    assert isinstance(asked, SampleParcel)
    return said(*(r.messages[0].content for r in asked.requests))


def texts(found: Iterable[RequestParcel | AnswerParcel]) -> list[list[str]]:
    said = []
    for p in found:
        assert isinstance(p, SampleParcel | SampledParcel)
        asked = isinstance(p, SampleParcel)
        said.append([r.messages[0].content for r in p.requests] if asked else [s.text for s in p.samples])
    return said


def answered(work: Work) -> Done:
    return Done(work.lease, tuple(echo(p) for p in work.parcels))


def failed(work: Work, error: HapsError, final: bool) -> Done:
    return Done(work.lease, tuple(Failure(error, final) for _ in work.parcels))


async def join(broker: Broker, worker: str = "llama/0", candidate: str = "llama") -> int:
    start = await broker.arrive(worker, candidate)
    assert start
    return await broker.register(worker, ModuleTable(candidate, 2, ()), 7, "node", start)


async def leased(broker: Broker, session: int, done: Done | None = None, worker: str = "llama/0") -> Work:
    """The next lease, past exchanges that came back empty."""
    while (work := await broker.exchange(worker, session, done)) is None:
        done = None
    return work


def asked(broker: Broker, *parcels: RequestParcel, candidate: str = "llama") -> list[asyncio.Task[AnswerParcel]]:
    return [asyncio.create_task(broker.submit(candidate, p)) for p in parcels]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.002)


async def counted(broker: Broker, name: str, value: int) -> None:
    async def reached() -> bool:
        return (await broker.status())[name] == value

    await until(reached)


def test_the_broker_needs_no_ray() -> None:
    code = "import sys, haps_search.engines.cluster.broker; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@asynchronous
async def test_parcels_of_different_trials_share_a_lease_in_the_order_they_came() -> None:
    broker = make(rows=5)
    session = await join(broker)
    waiting = asked(broker, parcel("a", "b"), parcel("c"), parcel("d", "e"), parcel("f"))
    await asyncio.sleep(0)
    first = await leased(broker, session)
    assert texts(first.parcels) == [["a", "b"], ["c"], ["d", "e"]]
    second = await leased(broker, session, answered(first))
    assert texts(second.parcels) == [["f"]]
    assert await broker.exchange("llama/0", session, answered(second)) is None
    assert texts(await asyncio.gather(*waiting)) == [["a", "b"], ["c"], ["d", "e"], ["f"]]


@asynchronous
async def test_a_parcel_larger_than_a_lease_goes_alone() -> None:
    broker = make(rows=2)
    session = await join(broker)
    asked(broker, parcel("a", "b", "c"), parcel("d"))
    await asyncio.sleep(0)
    assert texts((await leased(broker, session)).parcels) == [["a", "b", "c"]]


@asynchronous
async def test_a_worker_gets_parcels_of_its_own_candidate_only() -> None:
    broker = make("llama", "qwen2")
    session = await join(broker)
    asked(broker, parcel("for qwen2"), candidate="qwen2")
    asked(broker, parcel("for llama"))
    await asyncio.sleep(0)
    assert texts((await leased(broker, session)).parcels) == [["for llama"]]
    assert (await broker.status())["waiting"] == {"llama": 0, "qwen2": 1}


@pytest.mark.usefixtures("long_polls")
@asynchronous
async def test_a_waiting_worker_is_woken_by_a_parcel() -> None:
    broker = make()
    session = await join(broker)
    worker = asyncio.create_task(broker.exchange("llama/0", session, None))
    await asyncio.sleep(0.005)
    asked(broker, parcel("a"))
    work = await asyncio.wait_for(worker, 1)
    assert work is not None
    assert texts(work.parcels) == [["a"]]


@asynchronous
async def test_an_idle_worker_comes_back_empty() -> None:
    broker = make()
    assert await broker.exchange("llama/0", await join(broker), None) is None


@asynchronous
async def test_a_parcel_not_answered_in_time_goes_first_to_the_next_lease() -> None:
    clock = Clock()
    broker = make(clock=clock, rows=2)
    session = await join(broker)
    waiting = asked(broker, parcel("a"), parcel("b"))
    await asyncio.sleep(0)
    await leased(broker, session)
    waiting += asked(broker, parcel("c"))
    clock.now += 2 * DEADLINE_S
    await counted(broker, "requeued", 2)
    again = await leased(broker, session)
    assert texts(again.parcels) == [["a"], ["b"]]
    assert not any(w.done() for w in waiting)


@asynchronous
async def test_a_late_right_answer_counts_and_is_not_asked_for_again() -> None:
    clock = Clock()
    broker = make(clock=clock, rows=2)
    session = await join(broker)
    waiting = asked(broker, parcel("a"), parcel("b"))
    await asyncio.sleep(0)
    slow = await leased(broker, session)
    waiting += asked(broker, parcel("c"))
    clock.now += 2 * DEADLINE_S
    await counted(broker, "requeued", 2)
    again = await leased(broker, session, answered(slow))
    assert texts(again.parcels) == [["c"]]
    assert (await broker.status())["late"] == 1
    await asyncio.sleep(0)
    assert [w.done() for w in waiting] == [True, True, False]
    await broker.exchange("llama/0", session, answered(again))
    assert texts(await asyncio.gather(*waiting)) == [["a"], ["b"], ["c"]]


@asynchronous
async def test_a_lease_within_its_deadline_is_left_alone() -> None:
    clock = Clock()
    broker = make(clock=clock)
    session = await join(broker)
    asked(broker, parcel("a"))
    await asyncio.sleep(0)
    await leased(broker, session)
    clock.now += 0.9 * DEADLINE_S
    await asyncio.sleep(DEADLINE_S)
    assert (await broker.status())["leased"] == 1


@asynchronous
async def test_an_outcome_handed_in_twice_counts_once() -> None:
    broker = make()
    session = await join(broker)
    (waiting,) = asked(broker, parcel("a"))
    await asyncio.sleep(0)
    work = await leased(broker, session)
    await broker.exchange("llama/0", session, answered(work))
    await broker.exchange("llama/0", session, Done(work.lease, (said("forged"),)))
    assert texts([await waiting]) == [["a"]]
    assert (await broker.status())["late"] == 1


@asynchronous
async def test_after_so_many_attempts_the_last_problem_is_the_answer() -> None:
    broker = make(attempts=2)
    session = await join(broker)
    (waiting,) = asked(broker, parcel("a"))
    await asyncio.sleep(0)
    work = await leased(broker, session)
    work = await leased(broker, session, failed(work, PoolError("first problem"), final=False))
    assert not waiting.done()
    await broker.exchange("llama/0", session, failed(work, PoolError("last problem"), final=False))
    with pytest.raises(PoolError, match=r"llama: 2 attempts failed: last problem$"):
        await waiting
    assert (await broker.status())["requeued"] == 1


@asynchronous
async def test_a_final_failure_answers_its_own_parcel_at_once_and_no_other() -> None:
    broker = make()
    session = await join(broker)
    good, bad = asked(broker, parcel("a"), parcel("b"))
    await asyncio.sleep(0)
    work = await leased(broker, session)
    refusal = CandidateError("the prompt is too long")
    await broker.exchange("llama/0", session, Done(work.lease, (said("a"), Failure(refusal, final=True))))
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
        (waiting,) = asked(broker, parcel("a"))
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
            await broker.exchange("llama/0", old, Done(work.lease, (said("from the dead"),)))
        await broker.exchange("llama/1", other, answered(again))
        assert texts([await waiting]) == [["a"]]

    run()


@pytest.mark.usefixtures("long_polls")
@asynchronous
async def test_a_worker_replaced_while_it_waits_for_work_leases_none() -> None:
    broker = make()
    old = await join(broker)
    ghost = asyncio.create_task(broker.exchange("llama/0", old, None))
    await asyncio.sleep(0.005)
    new = await join(broker)
    asked(broker, parcel("a"))
    with pytest.raises(PoolError, match="replaced"):
        await asyncio.wait_for(ghost, 1)
    assert texts((await leased(broker, new)).parcels) == [["a"]]


@asynchronous
async def test_a_stranger_is_turned_away() -> None:
    with pytest.raises(PoolError, match="nobody/0 was replaced"):
        await make().exchange("nobody/0", 1, None)


@asynchronous
async def test_one_restart_too_many_ends_the_pool() -> None:
    broker = make(restarts=2)
    (waiting,) = asked(broker, parcel("a"))
    for _ in range(3):
        await join(broker)
    assert not waiting.done()
    assert not await broker.arrive("llama/0", "llama")
    with pytest.raises(PoolError, match=r"llama/0 of candidate llama died 3 times.*leases\.restarts"):
        await waiting


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
    (held,) = asked(broker, parcel("a"))
    await asyncio.sleep(0)
    work = await leased(broker, session)
    (queued,) = asked(broker, parcel("b"))
    tables = asyncio.create_task(broker.tables())
    await asyncio.sleep(0)
    await broker.fail_all("power cut")
    await broker.fail_all("a later reason")
    for waiting in (held, queued, tables, broker.submit("llama", parcel("c")), broker.tables()):
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
    assert set(await tables) == {"llama", "qwen2"}


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
    (waiting,) = asked(broker, parcel("a"))
    await asyncio.sleep(0)
    await broker.fail_all("llama: no such folder", CandidateError("llama: no such folder"))
    for each in (waiting, broker.tables(), broker.submit("llama", parcel("b"))):
        with pytest.raises(PoolError, match="no such folder"):
            await each


@asynchronous
async def test_silence_of_all_workers_ends_the_pool_when_somebody_waits() -> None:
    clock = Clock()
    broker = make(clock=clock)
    await join(broker)
    clock.now += 10 * SILENCE_S
    await asyncio.sleep(2 * DEADLINE_S)  # nobody waits, so nobody is missed
    assert (await broker.status())["ended"] is None
    (waiting,) = asked(broker, parcel("a"))
    await asyncio.sleep(2 * DEADLINE_S)
    assert not waiting.done()
    clock.now += 1.1 * SILENCE_S
    with pytest.raises(PoolError, match="no worker of candidate llama was heard of for 100 s"):
        await waiting


@asynchronous
async def test_a_busy_worker_is_not_silent() -> None:
    clock = Clock()
    broker = make(clock=clock, deadline_s=10 * SILENCE_S)
    session = await join(broker)
    asked(broker, parcel("a"))
    await asyncio.sleep(0)
    await leased(broker, session)
    asked(broker, parcel("b"))
    await asyncio.sleep(0)
    clock.now += 5 * SILENCE_S
    await broker._notice_silence(clock.now)
    assert (await broker.status())["ended"] is None


@asynchronous
async def test_a_parcel_whose_trial_is_gone_is_not_leased() -> None:
    broker = make()
    session = await join(broker)
    gone, stays = asked(broker, parcel("gone"), parcel("stays"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    work = await leased(broker, session)
    assert texts(work.parcels) == [["stays"]]
    await broker.exchange("llama/0", session, answered(work))
    assert texts([await stays]) == [["stays"]]


@asynchronous
async def test_an_answer_to_a_trial_that_left_meanwhile_disturbs_nobody() -> None:
    broker = make()
    session = await join(broker)
    gone, stays = asked(broker, parcel("gone"), parcel("stays"))
    await asyncio.sleep(0)
    work = await leased(broker, session)
    gone.cancel()
    await asyncio.sleep(0)
    await broker.exchange("llama/0", session, answered(work))
    assert texts([await stays]) == [["stays"]]


@asynchronous
async def test_an_unknown_candidate_is_refused_with_those_there_are() -> None:
    with pytest.raises(PoolError, match="no candidate gpt in this pool: it hosts llama, qwen2"):
        await make("llama", "qwen2").submit("gpt", parcel("a"))


@asynchronous
async def test_a_lease_keeps_to_the_room_of_its_worker_and_a_narrowed_room_is_counted() -> None:
    """Each of these parcels is estimated at four tokens a row."""
    broker = make()
    session = await join(broker)
    waiting = asked(broker, parcel("a"), parcel("b"), parcel("c", "d", "e"), parcel("f"))
    await asyncio.sleep(0)
    first = await broker.exchange("llama/0", session, None, 11)
    assert first is not None
    assert texts(first.parcels) == [["a"], ["b"]]
    second = await broker.exchange("llama/0", session, answered(first), 5)
    assert second is not None
    assert texts(second.parcels) == [["c", "d", "e"]], "one parcel always goes"
    third = await broker.exchange("llama/0", session, answered(second), 10)
    assert third is not None
    await broker.exchange("llama/0", session, answered(third), 10)
    assert texts(await asyncio.gather(*waiting)) == [["a"], ["b"], ["c", "d", "e"], ["f"]]
    status = await broker.status()
    assert status["narrowed"] == 1
    assert status["workers"]["llama/0"]["room"] == 10  # type: ignore[index]


@asynchronous
async def test_a_flood_of_one_trial_leaves_the_other_its_share_of_each_lease() -> None:
    """The fast trial has all its parcels waiting, the slow one asks for the next when it has its answer."""
    broker = make(rows=8)
    session = await join(broker)
    flood = [asyncio.create_task(broker.submit("llama", parcel(f"f{i}"), "fast")) for i in range(200)]
    leases: list[list[str]] = []

    async def slow() -> None:
        for turn in range(10):
            await asyncio.gather(*(broker.submit("llama", parcel(f"s{turn}.{i}"), "slow") for i in range(4)))

    waiting, done = asyncio.create_task(slow()), None
    await asyncio.sleep(0)
    while not waiting.done():
        work = await leased(broker, session, done)
        leases.append([text for part in texts(work.parcels) for text in part])
        done = answered(work)
        await asyncio.sleep(0.002)  # the slow one hears its answers
    shares = [sum(text.startswith("s") for text in lease) for lease in leases]
    assert shares == [0, *[4, 0] * 10][: len(shares)], "what it asks for after a lease was cut comes in the next"
    assert not all(task.done() for task in flood)
    for task in flood:
        task.cancel()


@asynchronous
async def test_prompts_that_workers_still_had_are_counted() -> None:
    broker = make()
    session = await join(broker)
    (waiting,) = asked(broker, parcel("a", "b"))
    await asyncio.sleep(0)
    work = await leased(broker, session)
    known = SampledParcel(tuple(Sampled(t, (1,), (-1.0,), 1, 1, prompt_known=t == "a") for t in ("a", "b")))
    await broker.exchange("llama/0", session, Done(work.lease, (known,)))
    await waiting
    assert (await broker.status())["known"] == 1


@asynchronous
async def test_status_counts_what_happened() -> None:
    broker = make()
    session = await join(broker)
    await join(broker)
    session = await join(broker)
    asked(broker, parcel("a", "b"), parcel("c"))
    await asyncio.sleep(0)
    await leased(broker, session)
    asked(broker, parcel("d"))
    await asyncio.sleep(0)
    status = await broker.status()
    assert {k: status[k] for k in ("parcels", "rows", "leases", "requeued", "late", "leased")} == {
        "parcels": 3, "rows": 4, "leases": 1, "requeued": 0, "late": 0, "leased": 1,
    }  # fmt: skip
    assert status["waiting"] == {"llama": 1}
    assert status["workers"] == {
        "llama/0": {"candidate": "llama", "pid": 7, "node": "node", "registrations": 3, "room": math.inf}
    }
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
            outcomes = [wrong if self.chance.random() < 0.1 else echo(p) for p in work.parcels]
            done = Done(work.lease, tuple(outcomes))


@pytest.mark.parametrize("seed", range(4))
def test_with_unruly_workers_every_parcel_is_answered_exactly_once(seed: int) -> None:
    chance = random.Random(seed)

    @asynchronous
    async def run() -> None:
        settings = Leases(deadline_s=DEADLINE_S, attempts=1000, rows=6, restarts=10_000)
        broker = Broker({"llama": 3}, settings)
        workers = [asyncio.create_task(Unruly(broker, f"llama/{i}", chance).live()) for i in range(3)]
        parcels = [parcel(*(f"{n}.{row}" for row in range(chance.randint(1, 4)))) for n in range(60)]
        waiting: list[asyncio.Task[AnswerParcel]] = []
        for p in parcels:
            waiting += asked(broker, p)
            await asyncio.sleep(chance.random() * 0.004)
        answers = await asyncio.gather(*waiting)
        status = await broker.status()
        for worker in workers:
            worker.cancel()
        assert texts(answers) == texts(parcels)
        assert status["parcels"] == 60
        assert status["waiting"] == {"llama": 0}
        assert status["requeued"] > 0, "the workers behaved"

    run()


def test_with_few_attempts_every_parcel_gets_its_answer_or_the_reason() -> None:
    chance = random.Random(5)

    @asynchronous
    async def run() -> None:
        broker = Broker({"llama": 2}, Leases(deadline_s=DEADLINE_S, attempts=2, rows=3, restarts=10_000))
        workers = [asyncio.create_task(Unruly(broker, f"llama/{i}", chance).live()) for i in range(2)]
        parcels = [parcel(str(n)) for n in range(40)]
        answers = await asyncio.gather(*asked(broker, *parcels), return_exceptions=True)
        for worker in workers:
            worker.cancel()
        errors = [a for a in answers if isinstance(a, BaseException)]
        assert 0 < len(errors) < 40
        assert all(isinstance(e, PoolError) and "2 attempts failed" in str(e) for e in errors)
        right = [(a, p) for a, p in zip(answers, parcels, strict=True) if isinstance(a, SampledParcel)]
        assert texts([a for a, _ in right]) == texts([p for _, p in right])

    run()


@asynchronous
async def test_a_pool_that_cannot_be_placed_says_so() -> None:
    clock = Clock()
    broker = make(clock=clock)
    await broker._notice_absence(clock.now)
    clock.now += 601.0
    await broker._notice_absence(clock.now)
    with pytest.raises(PoolError, match=r"no worker of .* was placed within"):
        await broker.tables()
