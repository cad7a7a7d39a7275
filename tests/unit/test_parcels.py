"""Rows of a question stay in one ticket where limits allow, and a ticket's lengths are alike."""

from __future__ import annotations

import random

import pytest
import torch
from made import layout

from haps_search.engines.cluster.parcels import Parcel, cut
from haps_search.engines.cluster.wire import estimated_tokens
from haps_search.types import Adapter, Message, Request, Sampling

LAYOUT = layout()
SIZE = 8 * LAYOUT.size
"""Bytes of an adapter."""


def adapter() -> Adapter:
    return Adapter(LAYOUT, torch.zeros(LAYOUT.size, dtype=torch.float64))


def asked(text: str, count: int = 1, given: Adapter | None = None, gradient: bool = False) -> list[Request]:
    return [Request((Message("user", text),), Sampling(4, seed=i), given, gradient) for i in range(count)]


def rows(parcels: list[Parcel]) -> list[set[int]]:
    return [set(parcel.rows) for parcel in parcels]


def test_questions_share_a_ticket_as_long_as_all_of_their_rows_fit() -> None:
    requests = [r for text in ("aaaa", "bbbb", "cccc") for r in asked(text, 4)]
    assert rows(cut(requests, 8, 1e9)) == [set(range(8)), set(range(8, 12))]
    assert rows(cut(requests, 7, 1e9)) == [set(range(0, 4)), set(range(4, 8)), set(range(8, 12))]
    assert rows(cut(requests, 100, 1e9)) == [set(range(12))]


def test_a_question_with_more_rows_than_a_ticket_is_cut_evenly() -> None:
    assert [len(part.rows) for part in cut(asked("aaaa", 10), 4, 1e9)] == [4, 4, 2]


def test_rows_under_an_adapter_of_their_own_are_one_question_whatever_they_read() -> None:
    """As the turns of a dialogue are."""
    own, other = adapter(), adapter()
    requests = [*asked("aaaa", 1, own), *asked("bbbb", 2, other), *asked("cccc", 1, own)]
    assert rows(cut(requests, 2, 1e9)) == [{0, 3}, {1, 2}]


def test_rows_under_one_adapter_for_all_are_told_apart_by_what_they_read() -> None:
    shared = adapter()
    requests = [*asked("aaaa", 2, shared), *asked("bbbb", 2, shared)]
    assert rows(cut(requests, 2, 1e9)) == [{0, 1}, {2, 3}]


def test_bytes_count_an_adapter_once_and_a_gradient_for_each_row_that_asks_for_it() -> None:
    own, other = adapter(), adapter()
    requests = [*asked("aaaa", 2, own, gradient=True), *asked("bbbb", 2, other)]
    parcels = cut(requests, 100, 4 * SIZE)
    assert [part.bytes for part in parcels] == [4 * SIZE]
    assert rows(cut(requests, 100, 3.5 * SIZE)) == [{0, 1}, {2, 3}]
    assert rows(cut(requests, 100, 2 * SIZE)) == [{0}, {1}, {2, 3}], "one that alone has too many bytes is cut"
    assert rows(cut(requests, 100, 1)) == [{0}, {1}, {2}, {3}]


def test_long_and_short_travel_apart_and_tokens_are_those_of_a_padded_batch() -> None:
    requests = [*asked("a" * 400, 2), *asked("b" * 40, 3)]
    assert [(set(part.rows), part.tokens) for part in cut(requests, 100, 1e9)] == [
        ({2, 3, 4}, 3 * (10 + 4)), ({0, 1}, 2 * (100 + 4)),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_every_row_travels_once_and_within_the_limits(seed: int) -> None:
    chance = random.Random(seed)
    requests: list[Request] = []
    for number in range(30):
        own = chance.choice([None, adapter()])
        text = f"{number:02d}" * chance.randint(1, 200)
        requests += asked(text, chance.randint(1, 9), own, own is not None and chance.random() < 0.5)
    chance.shuffle(requests)
    parcels = cut(requests, 6, 5 * SIZE)
    assert sorted(i for part in parcels for i in part.rows) == list(range(len(requests)))
    for part in parcels:
        lengths = [estimated_tokens(requests[i].messages, requests[i].sampling) for i in part.rows]
        assert len(part.rows) <= 6
        assert part.bytes <= 5 * SIZE or len(part.rows) == 1
        assert part.tokens == len(lengths) * max(lengths)
        assert max(lengths) <= 2 * min(lengths)


def test_nothing_is_cut_to_nothing() -> None:
    assert cut([], 4, 1e9) == []
