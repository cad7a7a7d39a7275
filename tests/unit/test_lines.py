"""The lines of a candidate: fair shares of tokens whatever trials do, batches of one kind and like length, nothing
starved."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from haps_search.engines.cluster.lines import Entry, Lines
from haps_search.engines.cluster.protocol import Limits, Ticket

NUMBERS = itertools.count()
ANYTHING = Limits(1e9, 1e12, 1e12)


def thing(trial: str, rows: int = 1, length: int = 10, kind: str = "sample", size: int = 0) -> Entry:
    number = next(NUMBERS)
    return Entry(Ticket(str(number), trial, "llama", kind, rows, rows * length, size, None), number)


def lines_of(*entries: Entry) -> Lines:
    lines = Lines()
    for entry in entries:
        lines.put(entry)
    return lines


def take(lines: Lines, rows: float = 1e9, tokens: float = 1e12, size: float = 1e12, worker: str = "w") -> list[Entry]:
    return lines.take(worker, Limits(rows, tokens, size), lambda trial: True)


def waiting(lines: Lines, entries: Sequence[Entry], trial: str) -> int:
    return sum(entry.waiting for entry in entries if entry.ticket.trial == trial)


def test_one_trial_is_served_in_order_within_rows_and_tokens() -> None:
    things = [thing("a", rows=2) for _ in range(5)]
    lines = lines_of(*things)
    assert take(lines, rows=4, tokens=1000) == things[:2]
    assert take(lines, rows=100, tokens=59) == things[2:4]
    assert take(lines, rows=1, tokens=1) == things[4:], "one always goes"
    assert take(lines, rows=1, tokens=1) == []


def test_bytes_bound_a_batch_and_one_ticket_may_have_more() -> None:
    things = [thing("a", size=60) for _ in range(3)]
    lines = lines_of(*things)
    assert take(lines, size=120) == things[:2]
    assert take(lines, size=1) == things[2:]


def test_what_comes_back_goes_by_its_age_before_the_rest_of_its_trial() -> None:
    things = [thing("a") for _ in range(4)]
    lines = lines_of(*things)
    again = take(lines, rows=2)
    for entry in reversed(again):
        lines.put(entry)
    assert take(lines) == things


def test_what_nobody_waits_for_is_left_out() -> None:
    things = [thing("a"), thing("b"), thing("a")]
    lines = lines_of(*things)
    lines.discard(things[2])
    lines.drop("b")
    assert (lines.tickets, lines.rows) == (1, 1)
    assert take(lines) == things[:1]
    assert (lines.tickets, lines.rows) == (0, 0)


def test_a_trial_that_does_not_live_is_passed_over_and_keeps_its_place() -> None:
    dead, alive = [thing("dead") for _ in range(3)], [thing("alive") for _ in range(3)]
    lines = lines_of(*dead, *alive)
    assert lines.take("w", ANYTHING, lambda trial: trial == "alive") == alive
    assert lines.take("w", ANYTHING, lambda trial: trial == "alive") == []
    assert take(lines) == dead


def test_a_batch_is_of_one_kind_and_each_kind_gets_its_turn() -> None:
    kinds = ["sample", "score", "score", "sample", "sample", "score"]
    things = [thing("a", kind=kind) for kind in kinds]
    lines = lines_of(*things)
    assert take(lines) == [things[i] for i in (0, 3, 4)]
    assert take(lines) == [things[i] for i in (1, 2, 5)]


def test_what_prefers_a_worker_waits_for_it_until_it_is_offered_to_anyone() -> None:
    own, free = thing("a"), thing("a")
    lines = Lines()
    lines.put(own, "mine")
    lines.put(free)
    assert take(lines, worker="other") == [free]
    assert take(lines, worker="other") == []
    assert lines.offer(own)
    assert take(lines, worker="other") == [own]
    assert not lines.offer(own), "it has been taken"
    lines.put(own, "mine")
    assert take(lines, worker="mine") == [own]


@pytest.mark.parametrize(
    ("flood", "other"),
    [
        ({"rows": 1, "length": 10}, {"rows": 1, "length": 10}),
        ({"rows": 1, "length": 10}, {"rows": 12, "length": 10}),
        ({"rows": 2, "length": 10}, {"rows": 3, "length": 70}),
        ({"rows": 9, "length": 40}, {"rows": 1, "length": 5}),
    ],
)
def test_trials_of_very_different_speeds_get_the_same_tokens(flood: dict[str, int], other: dict[str, int]) -> None:
    """One always has a hundred tickets waiting, the other two; in whatever sizes and lengths."""
    lines, served = Lines(), Counter[str]()
    there: list[Entry] = []
    cost = other["rows"] * other["length"]
    for _ in range(60):
        for trial, kind, wanted in (("flood", flood, 100), ("other", other, max(2, 500 // cost))):
            new = [thing(trial, **kind) for _ in range(wanted - waiting(lines, there, trial))]
            for entry in new:
                lines.put(entry)
            there += new
        for entry in take(lines, rows=64, tokens=500):
            served[entry.ticket.trial] += entry.ticket.tokens
    assert served["flood"] == pytest.approx(served["other"], rel=0.2)


def test_where_rows_are_the_limit_the_longer_texts_are_not_served_more() -> None:
    """They share no batch, so batches in turn would give each trial the same rows."""
    lines, served = Lines(), Counter[str]()
    there: list[Entry] = []
    for _ in range(60):
        for trial, rows, length in (("quick", 8, 49), ("slow", 2, 144)):
            new = [thing(trial, rows, length) for _ in range(24 - waiting(lines, there, trial))]
            for entry in new:
                lines.put(entry)
            there += new
        for entry in take(lines, rows=32):
            served[entry.ticket.trial] += entry.ticket.tokens
    assert served["quick"] == pytest.approx(served["slow"], rel=0.1)


def test_who_asks_for_less_than_its_share_gets_all_of_it() -> None:
    """One whose requests are all in flight for a moment is served when it asks again."""
    lines, served = Lines(), Counter[str]()
    there: list[Entry] = []
    for turn in range(60):
        new = [thing("flood", 2, 200) for _ in range(40 - waiting(lines, there, "flood"))]
        there += new
        if turn % 2:
            new += [thing("in step", 4, 20) for _ in range(8)]
        for entry in new:
            lines.put(entry)
        for entry in take(lines, rows=32):
            served[entry.ticket.trial] += entry.ticket.tokens
    assert served["in step"] == 30 * 8 * 80, "all that it asked for, as it was less than its share"


def test_a_newcomer_is_at_most_a_batch_ahead_whatever_flood_there_was() -> None:
    lines = lines_of(*(thing("flood", length=11 + 9 * (i % 2)) for i in range(5000)))
    for _ in range(100):
        take(lines, rows=64, tokens=500)
    for _ in range(100):
        lines.put(thing("mine", length=15))
    served: Counter[str] = Counter()
    for _ in range(4):
        for entry in take(lines, rows=64, tokens=500):
            served[entry.ticket.trial] += entry.ticket.tokens
        assert 0 <= served["mine"] - served["flood"] <= 500 + 20, "a batch and a ticket"


@pytest.mark.parametrize("seed", range(5))
def test_batches_keep_to_their_limits_and_everything_is_taken_once(seed: int) -> None:
    chance = random.Random(seed)
    lines, things = Lines(), []
    for _ in range(300):
        rows, length, size = chance.randint(1, 4), chance.randint(1, 400), chance.randint(0, 50)
        things.append(thing(chance.choice("abc"), rows, length, chance.choice(["sample", "score"]), size))
    for entry in things:
        lines.put(entry, chance.choice(["", "", "w1", "w2"]))
    seen: list[Entry] = []
    while lines.tickets:
        worker = chance.choice(["w1", "w2"])
        batch = take(lines, 32, 2000, 400, worker)
        tickets = [entry.ticket for entry in batch]
        if batch:
            assert len({ticket.kind for ticket in tickets}) == 1
            assert all(t.length <= 2 * tickets[0].length and tickets[0].length <= 2 * t.length for t in tickets)
            assert len(batch) == 1 or sum(t.tokens for t in tickets) <= 2000
            assert len(batch) == 1 or sum(t.bytes for t in tickets) <= 400
            assert sum(t.rows for t in tickets) <= 32
        again = [entry for entry in batch if chance.random() < 0.1]
        for entry in again:
            lines.put(entry)
        seen += [entry for entry in batch if entry not in again]
    assert sorted(entry.number for entry in seen) == [entry.number for entry in things]


def test_a_single_long_one_does_not_wait_for_its_like() -> None:
    long = thing("b", length=500)
    lines = lines_of(*(thing("a") for _ in range(1000)), long)
    assert long not in take(lines, rows=64, tokens=500)
    assert take(lines, rows=64, tokens=500) == [long]


def test_a_trial_that_was_silent_is_owed_nothing_and_a_newcomer_is_level_with_the_others() -> None:
    entries = [thing(trial, rows=10) for trial in ("silent", "a", "b") for _ in range(100)]
    lines = lines_of(*entries)
    for _ in range(40):
        lines.take("w", Limits(10, 1e12, 1e12), lambda trial: trial != "silent")
    begun = [thing("new", rows=10) for _ in range(100)]
    for entry in begun:
        lines.put(entry)
    served = Counter(take(lines, rows=10)[0].ticket.trial for _ in range(40))
    assert max(served.values()) - min(served.values()) <= 2
    assert len(served) == 4
