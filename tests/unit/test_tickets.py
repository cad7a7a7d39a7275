"""Every way in which a lease ends leaves each ticket with one outcome. No Ray, no asyncio, and a clock that is told."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from haps_search.config.engines import Leases
from haps_search.engines.cluster.protocol import Answered, Done, Failure, Limits, Lost, Result, Ticket, Work
from haps_search.engines.cluster.tickets import DROPPED_S, PATIENCE_S, SILENT_S, Tickets
from haps_search.errors import PoolError

ALL = Limits(math.inf, math.inf, math.inf)
DEADLINE_S = 5.0


def tickets_of(*names: str, **leases: Any) -> Tickets:
    return Tickets(names or ("llama",), Leases(**{"deadline_s": DEADLINE_S, **leases}))


def ticket(name: str, trial: str = "t", **fields: Any) -> Ticket:
    given = {"candidate": "llama", "kind": "sample", "rows": 1, "tokens": 10, "bytes": 0, "payload": f"<{name}>"}
    return Ticket(name, trial, **{**given, **fields})


def answered(work: Work, *but: tuple[int, Result]) -> Done:
    """An answer that says whose it is, for all but some."""
    results: list[Result] = [Answered(f"to {payload}") for payload in work.payloads]
    for place, result in but:
        results[place] = result
    return Done(work.lease, tuple(results))


def grant(there: Tickets, now: float = 0.0, worker: str = "w", limits: Limits = ALL) -> Work:
    work = there.grant(worker, "llama", limits, now)
    assert work is not None
    return work


def told(there: Tickets, epoch: int, trial: str = "t", seen: int = 0, now: float = 0.0) -> dict[str, Result]:
    found = there.outcomes(trial, epoch, seen, now)
    assert found is not None
    return {outcome.ticket: outcome.result for outcome in found}


def test_an_outcome_is_kept_until_its_trial_says_that_it_has_it() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a"), ticket("b")], 0.0)
    there.settle(answered(grant(there)))
    assert told(there, epoch) == {"a": Answered("to <a>"), "b": Answered("to <b>")}
    assert list(told(there, epoch, seen=1)) == ["b"], "asked again, as its answer may not have got through"
    assert told(there, epoch, seen=2) == {}


def test_a_ticket_submitted_twice_counts_once_also_when_it_has_its_outcome() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a")], 0.0)
    assert there.submit("t", [ticket("a")], 0.0) == epoch
    there.settle(answered(grant(there)))
    assert there.submit("t", [ticket("a")], 0.0) == epoch
    assert there.grant("w", "llama", ALL, 0.0) is None
    assert there.counts["tickets"] == 1


def test_a_trial_that_is_silent_is_not_leased_to_until_it_is_heard_again() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a")], 0.0)
    there.stirred.clear()
    assert there.grant("w", "llama", ALL, SILENT_S + 0.1) is None
    assert told(there, epoch, now=SILENT_S + 0.1) == {}
    assert there.stirred == {("llama", "")}, "a worker that waits has to hear of it"
    assert grant(there, SILENT_S + 0.2).payloads == ("<a>",)


def test_a_trial_that_polls_is_leased_to_however_long_its_tickets_wait() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a")], 0.0)
    for second in range(100):
        assert told(there, epoch, now=float(second)) == {}
        there.expire(float(second))
    assert grant(there, 99.0).payloads == ("<a>",)


def test_a_trial_that_was_silent_for_long_is_dropped_and_submits_again_what_is_open() -> None:
    there = tickets_of()
    first = there.submit("t", [ticket("a"), ticket("b")], 0.0)
    held = grant(there, limits=Limits(1, math.inf, math.inf))
    there.expire(DROPPED_S + 1)
    assert there.counts["dropped"] == 2
    assert there.open == 0
    assert there.grant("w", "llama", ALL, DROPPED_S + 1) is None
    assert there.outcomes("t", first, 0, DROPPED_S + 2) is None, "unknown: it has to submit again"
    second = there.submit("t", [ticket("a"), ticket("b")], DROPPED_S + 3)
    assert second != first
    there.settle(answered(held))
    assert told(there, second, now=DROPPED_S + 3) == {}, "an answer to what was dropped is nobody's"
    there.settle(answered(grant(there, DROPPED_S + 3)))
    assert set(told(there, second, now=DROPPED_S + 3)) == {"a", "b"}


def test_what_is_withdrawn_is_neither_leased_nor_answered() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a"), ticket("b"), ticket("c")], 0.0)
    held = grant(there, limits=Limits(1, math.inf, math.inf))
    there.withdraw("t", epoch, ["a", "b", "unknown"])
    there.withdraw("t", epoch + 1, ["c"])
    there.settle(answered(held))
    assert grant(there).payloads == ("<c>",)
    assert told(there, epoch) == {}


def test_a_lost_request_is_told_to_its_trial_and_not_asked_again() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a"), ticket("b")], 0.0)
    lost = Lost("its owner died")
    there.settle(answered(grant(there), (0, lost)))
    assert told(there, epoch) == {"a": lost, "b": Answered("to <b>")}
    assert there.grant("w", "llama", ALL, 0.0) is None
    assert there.counts["lost"] == 0
    there.submit("t", [ticket("a2", lost=1)], 0.0)
    assert there.counts["lost"] == 1


def test_a_worker_that_is_preferred_has_its_time_and_then_anyone_may() -> None:
    there = tickets_of()
    there.submit("t", [ticket("a", kind="score", prefers="mine")], 0.0)
    assert there.stirred == {("llama", "mine")}
    assert there.grant("other", "llama", ALL, 0.5) is None
    there.stirred.clear()
    there.expire(PATIENCE_S + 0.1)
    assert there.stirred == {("llama", "")}
    assert grant(there, PATIENCE_S + 0.1, "other").payloads == ("<a>",)


def test_what_a_preferred_worker_held_when_it_died_is_anyones_at_once() -> None:
    there = tickets_of()
    there.submit("t", [ticket("a", prefers="mine")], 0.0)
    grant(there, worker="mine")
    there.revoke("mine", "died")
    assert grant(there, worker="other").payloads == ("<a>",)


def test_a_late_answer_takes_the_ticket_from_whoever_has_it_now() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a")], 0.0)
    slow = grant(there, worker="slow")
    told(there, epoch, now=DEADLINE_S)
    there.expire(DEADLINE_S + 0.1)
    quick = grant(there, DEADLINE_S + 0.1, "quick")
    there.settle(answered(slow))
    there.settle(Done(quick.lease, (Answered("another"),)))
    assert told(there, epoch) == {"a": Answered("to <a>")}
    assert there.counts["late"] == 1
    assert there.counts["requeued"] == 1


def test_a_late_answer_of_a_process_that_was_replaced_is_nobody_s() -> None:
    there = tickets_of()
    epoch = there.submit("t", [ticket("a")], 0.0)
    slow = grant(there, worker="slow")
    there.expire(DEADLINE_S + 0.1)
    there.revoke("slow", "died")
    there.settle(answered(slow))
    assert told(there, epoch, now=DEADLINE_S) == {}
    assert there.counts["late"] == 1


def test_late_failures_do_not_count() -> None:
    there = tickets_of(attempts=5)
    epoch = there.submit("t", [ticket("a"), ticket("b")], 0.0)
    slow = grant(there)
    there.expire(DEADLINE_S + 0.1)
    there.settle(Done(slow.lease, (Failure(PoolError("wrong"), True), Lost("gone"))))
    assert told(there, epoch, now=DEADLINE_S) == {}
    assert grant(there, DEADLINE_S + 0.1).payloads == ("<a>", "<b>")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_workers_and_trials_do_every_ticket_has_one_outcome_and_it_is_its_own(seed: int) -> None:
    """Trials that fall silent and come back, workers that answer, fail, lose, die, or answer late and twice."""
    play = Play(random.Random(seed))
    for _ in range(400):
        play.move()
    play.finish()
    assert play.counted == Counter(dict.fromkeys(play.submitted, 1))
    assert play.there.open == 0
    assert play.there.waiting("llama").tickets == play.there.waiting("qwen2").tickets == 0


class Play:
    """Three trials that follow the protocol, and workers that do as they like."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.now = chance, 0.0
        self.there = tickets_of("llama", "qwen2", attempts=1000)
        self.submitted: list[str] = []
        self.counted: Counter[str] = Counter()
        self.open: dict[str, dict[str, Ticket]] = {trial: {} for trial in "abc"}
        self.epoch = dict.fromkeys("abc", 0)
        self.seen = dict.fromkeys("abc", 0)
        self.held: list[Work] = []

    def move(self) -> None:
        self.now += self.chance.choice([0.01, 0.1, 1.0, 1.0, 4.0, 4.0, 20.0])
        self.there.expire(self.now)
        trial, worker = self.chance.choice("abc"), self.chance.choice(["w1", "w2", "w3"])
        self.chance.choice([self.submit, self.poll, self.poll, self.work, self.work, self.die, self.hand_in])(
            trial, worker
        )

    def submit(self, trial: str, worker: str) -> None:
        new = []
        for _ in range(self.chance.randint(1, 6)):
            name = f"{trial}{len(self.submitted)}"
            self.submitted.append(name)
            candidate, prefers = self.chance.choice(["llama", "qwen2"]), self.chance.choice(["", "", "w1"])
            rows = self.chance.randint(1, 8)
            new.append(ticket(name, trial, candidate=candidate, prefers=prefers, rows=rows, tokens=10 * rows))
        self.open[trial] |= {each.id: each for each in new}
        self.give(trial, new)

    def give(self, trial: str, tickets: list[Ticket]) -> None:
        epoch = self.there.submit(trial, tickets, self.now)
        if epoch != self.epoch[trial]:
            self.epoch[trial], self.seen[trial] = epoch, 0
            self.there.submit(trial, list(self.open[trial].values()), self.now)

    def poll(self, trial: str, worker: str) -> None:
        found = self.there.outcomes(trial, self.epoch[trial], self.seen[trial], self.now)
        if found is None:
            self.give(trial, list(self.open[trial].values()))
            return
        if self.chance.random() < 0.2:
            return  # the answer did not get through
        for outcome in found:
            self.seen[trial] = outcome.number
            asked = self.open[trial].pop(outcome.ticket, None)
            if asked is None:
                continue
            if isinstance(outcome.result, Lost):
                again = ticket(f"{outcome.ticket}+", trial, candidate=asked.candidate, lost=1)
                self.submitted[self.submitted.index(outcome.ticket)] = again.id
                self.open[trial][again.id] = again
                self.give(trial, [again])
            else:
                assert outcome.result == Answered(f"to <{outcome.ticket}>")
                self.counted[outcome.ticket] += 1

    def work(self, trial: str, worker: str) -> None:
        candidate = self.chance.choice(["llama", "qwen2"])
        limits = Limits(self.chance.randint(1, 30), math.inf, math.inf)
        work = self.there.grant(worker, candidate, limits, self.now)
        if work is not None:
            self.held.append(work)

    def hand_in(self, trial: str, worker: str) -> None:
        if self.held:
            work = self.chance.choice(self.held)
            odd = [Failure(PoolError("no memory"), final=False), Lost("gone")]
            but = [(i, self.chance.choice(odd)) for i in range(len(work.payloads)) if self.chance.random() < 0.2]
            self.there.settle(answered(work, *but))

    def die(self, trial: str, worker: str) -> None:
        self.there.revoke(worker, "died")

    def finish(self) -> None:
        for _ in range(10_000):
            for trial in "abc":
                self.poll(trial, "w1")
            for candidate in ("llama", "qwen2"):
                work = self.there.grant("w1", candidate, ALL, self.now)
                if work is not None:
                    self.there.settle(answered(work))
            self.now += 0.5
            self.there.expire(self.now)
            if not any(self.open.values()):
                return
        raise AssertionError(f"not answered: {self.open}")


def test_what_kills_its_worker_takes_no_ticket_of_another_with_it() -> None:
    """Those that shared its lease share it again, by their age; the last attempt is each one's own."""
    there = tickets_of()
    epochs = {trial: there.submit(trial, [ticket(f"{trial}/{n}", trial) for n in range(4)], 0.0) for trial in "abc"}
    epochs["bad"] = there.submit("bad", [ticket("poison", "bad")], 0.0)
    sizes = []
    while there.open:
        work = grant(there)
        sizes.append(len(work.payloads))
        if "<poison>" in work.payloads:
            there.revoke("w", "its worker was replaced")
        else:
            there.settle(answered(work))
    assert sizes == [13, 13, *[1] * 13]
    for trial in "abc":
        assert set(map(type, told(there, epochs[trial], trial).values())) == {Answered}
    (failure,) = told(there, epochs["bad"], "bad").values()
    assert isinstance(failure, Failure)
