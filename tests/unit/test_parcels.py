"""Rows of a question stay in one ticket where limits allow, and a ticket's lengths are alike."""

from __future__ import annotations

import random

import pytest
import torch
from made import layout

from haps_search.engines.cluster.parcels import Parcel, cut_samples, cut_scores
from haps_search.engines.cluster.remote_candidates import Drawn
from haps_search.engines.cluster.wire import estimated_tokens
from haps_search.types import Adapter, GivenCompletion, Message, Sampled, SampleRequest, Sampling, ScoreRequest

LAYOUT = layout()
SIZE = 8 * LAYOUT.size
"""Bytes of an adapter."""
MOST = 1000


def adapter(base: Adapter | None = None) -> Adapter:
    return Adapter(LAYOUT, torch.zeros(LAYOUT.size, dtype=torch.float64), base)


def asked(text: str, count: int = 1, given: Adapter | None = None) -> list[SampleRequest]:
    return [SampleRequest((Message("user", text),), Sampling(4, seed=i), given) for i in range(count)]


def places(parcels: list[Parcel]) -> list[set[int]]:
    return [set(parcel.places) for parcel in parcels]


def test_questions_share_a_ticket_as_long_as_all_of_their_rows_fit() -> None:
    requests = [r for text in ("aaaa", "bbbb", "cccc") for r in asked(text, 4)]
    assert places(cut_samples(requests, 8, MOST, 1e9)) == [set(range(8)), set(range(8, 12))]
    assert places(cut_samples(requests, 7, MOST, 1e9)) == [set(range(0, 4)), set(range(4, 8)), set(range(8, 12))]
    assert places(cut_samples(requests, 2, MOST, 1e9)) == [set(range(0, 4)), set(range(4, 8)), set(range(8, 12))]
    assert places(cut_samples(requests, 100, MOST, 1e9)) == [set(range(12))]


def test_a_question_is_cut_only_where_it_has_more_rows_than_a_lease() -> None:
    assert [part.rows for part in cut_samples(asked("aaaa", 10), 2, 4, 1e9)] == [4, 4, 2]


def test_rows_under_an_adapter_of_their_own_are_one_question_whatever_they_read() -> None:
    """As the turns of a dialogue are."""
    own, other = adapter(), adapter()
    requests = [*asked("aaaa", 1, own), *asked("bbbb", 2, other), *asked("cccc", 1, own)]
    assert places(cut_samples(requests, 2, MOST, 1e9)) == [{0, 3}, {1, 2}]


def test_rows_under_one_adapter_for_all_are_told_apart_by_what_they_read() -> None:
    shared = adapter()
    requests = [*asked("aaaa", 2, shared), *asked("bbbb", 2, shared)]
    assert places(cut_samples(requests, 2, MOST, 1e9)) == [{0, 1}, {2, 3}]


def test_bytes_count_each_tensor_once() -> None:
    base = adapter()
    requests = [*asked("aaaa", 2, adapter(base)), *asked("bbbb", 2, adapter(base))]
    assert [part.bytes for part in cut_samples(requests, 100, MOST, 1e9)] == [3 * SIZE]
    assert [part.bytes for part in cut_samples(requests, 100, MOST, 2.5 * SIZE)] == [2 * SIZE] * 2
    assert [part.bytes for part in cut_samples(requests, 100, MOST, 1)] == [2 * SIZE] * 2, "a question is not cut"


def test_long_and_short_travel_apart_and_tokens_are_those_of_a_padded_batch() -> None:
    requests = [*asked("a" * 400, 2), *asked("b" * 40, 3)]
    assert [(set(part.places), part.tokens) for part in cut_samples(requests, 100, MOST, 1e9)] == [
        ({2, 3, 4}, 3 * (10 + 4)), ({0, 1}, 2 * (100 + 4)),
    ]  # fmt: skip


def to_score(*weights: float, given: Adapter | None = None, reference: Adapter | None = None) -> ScoreRequest:
    said = tuple(GivenCompletion((Message("user", "aaaa"),), (7, 1), weight) for weight in weights)
    return ScoreRequest(said, given or adapter(), reference=reference)


def test_scores_prefer_their_worker_and_nothing_that_weighs_nothing_travels() -> None:
    requests = [to_score(1.0, 1.0), to_score(0.0, 0.0), to_score(1.0, 0.0), to_score(2.0)]
    found = cut_scores(requests, 100, 1e9, ["a", "a", "b", "a"])
    assert [(set(parcel.places), parcel.rows, worker) for parcel, worker in found] == [({0, 3}, 3, "a"), ({2}, 1, "b")]


def test_bytes_of_scores_are_adapters_references_and_gradients_each_once() -> None:
    shared, reference = adapter(), adapter()
    weighed = [to_score(1.0, given=adapter(shared), reference=reference) for _ in range(2)]
    ((parcel, _),) = cut_scores(weighed, 100, 1e9, ["", ""])
    assert parcel.bytes == (2 + 1 + 1) * SIZE + (2 + 1) * SIZE
    asked_only = ScoreRequest(weighed[0].completions, shared, every=True)
    unweighed = ScoreRequest((GivenCompletion((), (1,)),), asked_only.adapter, every=True)
    ((parcel, _),) = cut_scores([unweighed], 100, 1e9, [""])
    assert parcel.bytes == SIZE


@pytest.mark.parametrize("seed", range(10))
def test_every_row_travels_once_and_within_the_limits(seed: int) -> None:
    chance = random.Random(seed)
    requests: list[SampleRequest] = []
    for number in range(30):
        own = chance.choice([None, adapter()])
        text = f"{number:02d}" * chance.randint(1, 200)
        requests += asked(text, chance.randint(1, 9), own)
    chance.shuffle(requests)
    parcels = cut_samples(requests, 4, 6, 3 * SIZE)
    assert sorted(i for part in parcels for i in part.places) == list(range(len(requests)))
    for part in parcels:
        lengths = [estimated_tokens(requests[i].messages, requests[i].sampling.max_new_tokens) for i in part.places]
        questions = {requests[i].messages for i in part.places}
        assert part.rows == len(part.places) <= (6 if len(questions) == 1 else 4)
        assert part.bytes <= 3 * SIZE
        assert part.tokens == len(lengths) * max(lengths)
        assert max(lengths) <= 2 * min(lengths)


def test_nothing_is_cut_to_nothing() -> None:
    assert cut_samples([], 4, MOST, 1e9) == []
    assert cut_scores([], 4, 1e9, []) == []


def test_who_drew_most_of_a_questions_completions_is_preferred_once() -> None:
    drawn = Drawn()
    samples = [Sampled("x", (7, i), (-1.0, -1.0), 1, 2) for i in range(3)]
    drawn.by("a", samples[:1])
    drawn.by("b", samples[1:])
    request = ScoreRequest(tuple(GivenCompletion((), sampled.token_ids, 1.0) for sampled in samples), adapter())
    assert drawn.who(request) == "b"
    assert drawn.who(request) == "", "they are scored, and forgotten"
    assert drawn.who(ScoreRequest((GivenCompletion((), (7, 0), 1.0),), adapter())) == "", "equal is not the same"
