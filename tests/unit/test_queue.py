"""The queue of a candidate: fair shares of tokens whatever trials do, batches of like length, nothing starved."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from haps_search.engines.cluster.queue import FairQueue


@dataclass(eq=False)
class Thing:
    trial: str
    rows: int = 1
    length: int = 10
    gone: bool = False

    @property
    def cost(self) -> int:
        return self.rows * self.length


def queue_of(*things: Thing) -> FairQueue[Thing]:
    queue = FairQueue[Thing]()
    queue.put(things)
    return queue


def test_one_trial_is_served_in_order_within_rows_and_tokens() -> None:
    things = [Thing("a", rows=2) for _ in range(5)]
    queue = queue_of(*things)
    assert queue.take(rows=4, tokens=1000) == things[:2]
    assert queue.take(rows=100, tokens=59) == things[2:4]
    assert queue.take(rows=1, tokens=1) == things[4:], "one always goes"
    assert queue.take(rows=1, tokens=1) == []


def test_what_was_put_first_goes_before_the_rest_of_its_trial() -> None:
    old, new = Thing("a"), Thing("a")
    queue = queue_of(new)
    again = [Thing("a"), Thing("a")]
    queue.put([old])
    queue.put(again, first=True)
    assert queue.take(100, 1000) == [*again, new, old]


def test_what_nobody_waits_for_is_dropped() -> None:
    things = [Thing("a"), Thing("b", gone=True), Thing("a", gone=True)]
    queue = queue_of(*things)
    assert queue.take(100, 1000) == things[:1]
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("flood", "other"),
    [
        (Thing("flood", rows=1, length=10), Thing("other", rows=1, length=10)),
        (Thing("flood", rows=1, length=10), Thing("other", rows=12, length=10)),
        (Thing("flood", rows=2, length=10), Thing("other", rows=3, length=70)),
        (Thing("flood", rows=9, length=40), Thing("other", rows=1, length=5)),
    ],
)
def test_trials_of_very_different_speeds_get_the_same_tokens(flood: Thing, other: Thing) -> None:
    """One always has a hundred parcels waiting, the other two; in whatever sizes and lengths."""
    queue = FairQueue[Thing]()
    served: Counter[str] = Counter()
    for _ in range(60):
        for kind, waiting in ((flood, 100), (other, max(2, 500 // other.cost))):
            there = sum(item.trial == kind.trial for item in queue)
            queue.put([Thing(kind.trial, kind.rows, kind.length) for _ in range(waiting - there)])
        for item in queue.take(rows=64, tokens=500):
            served[item.trial] += item.cost
    assert served["flood"] == pytest.approx(served["other"], rel=0.2)


def test_where_rows_are_the_limit_the_longer_texts_are_not_served_more() -> None:
    """They share no batch, so batches in turn would give each trial the same rows."""
    queue, served = FairQueue[Thing](), Counter[str]()
    for _ in range(60):
        for kind in (Thing("quick", rows=8, length=49), Thing("slow", rows=2, length=144)):
            there = sum(item.trial == kind.trial for item in queue)
            queue.put([Thing(kind.trial, kind.rows, kind.length) for _ in range(24 - there)])
        for item in queue.take(rows=32, tokens=1e9):
            served[item.trial] += item.cost
    assert served["quick"] == pytest.approx(served["slow"], rel=0.1)


def test_who_asks_for_less_than_its_share_gets_all_of_it() -> None:
    """One whose requests are all in flight for a moment is served when it asks again."""
    queue, served = FairQueue[Thing](), Counter[str]()
    for turn in range(60):
        queue.put([Thing("flood", rows=2, length=200) for _ in range(40 - sum(t.trial == "flood" for t in queue))])
        if turn % 2:
            queue.put([Thing("in step", rows=4, length=20) for _ in range(8)])
        for item in queue.take(rows=32, tokens=1e9):
            served[item.trial] += item.cost
    assert served["in step"] == 30 * 8 * 80, "all that it asked for, as it was less than its share"


def test_a_newcomer_is_at_most_a_batch_ahead_whatever_flood_there_was() -> None:
    queue = queue_of(*(Thing("flood", length=11 + 9 * (i % 2)) for i in range(5000)))
    for _ in range(100):
        queue.take(rows=64, tokens=500)
    queue.put([Thing("mine", length=15) for _ in range(100)])
    served: Counter[str] = Counter()
    for _ in range(4):
        for item in queue.take(rows=64, tokens=500):
            served[item.trial] += item.cost
        assert 0 <= served["mine"] - served["flood"] <= 500


def test_a_batch_holds_like_lengths_and_every_length_gets_its_turn() -> None:
    chance = random.Random(0)
    things = [Thing(chance.choice("abc"), chance.randint(1, 4), chance.choice([8, 12, 40, 300])) for _ in range(200)]
    queue = queue_of(*things)
    seen: list[Thing] = []
    while len(queue):
        batch = queue.take(rows=32, tokens=2000)
        assert max(t.length for t in batch) <= 2 * min(t.length for t in batch[:1])
        assert len(batch) == 1 or sum(t.cost for t in batch) <= 2000
        assert sum(t.rows for t in batch) <= 32
        seen += batch
    assert sorted(map(id, seen)) == sorted(map(id, things))


def test_a_single_long_one_does_not_wait_for_its_like() -> None:
    long = Thing("b", length=500)
    queue = queue_of(*(Thing("a") for _ in range(1000)), long)
    assert long not in queue.take(rows=64, tokens=500)
    assert queue.take(rows=64, tokens=500) == [long]
