"""What is packed comes out as it went in, and shared adapters travel once."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from haps_search.engines.cluster.wire import (
    CHUNK,
    PackedTensors,
    Place,
    pack_sample,
    pack_score,
    pack_scores,
    pack_tensors,
    unpack_sample,
    unpack_score,
    unpack_scores,
    unpack_tensors,
)
from haps_search.lora.adapter import learnt_tensors
from haps_search.types import (
    Adapter,
    AdapterLayout,
    Distribution,
    GivenCompletion,
    LinearModule,
    Message,
    SampleRequest,
    Sampling,
    Score,
    ScoreRequest,
    Scores,
)

SMALL = AdapterLayout(1, 0.5, (LinearModule("o_proj", 1, 3, 2, 1.0),))
LARGE = AdapterLayout(2, 1.0, (LinearModule("q_proj", 0, 4, 5, 2.0), LinearModule("q_proj", 1, 4, 5, 2.0)))


def adapter(layout: AdapterLayout, seed: int, dtype: torch.dtype = torch.float64) -> Adapter:
    return Adapter(layout, torch.randn(layout.size, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def request(text: str, given: Adapter | None = None, keep: bool = False) -> SampleRequest:
    messages = (Message("system", "be brief"), Message("user", text))
    return SampleRequest(messages, Sampling(7, 0.5, seed=3, top_k=4, top_p=0.9), given, keep)


def to_score(given: Adapter | None, reference: Adapter | None = None, **kinds: bool) -> ScoreRequest:
    messages = (Message("user", "a question"),)
    weight = 0.0 if given is None else -0.5
    completions = (GivenCompletion(messages, (1, 2), weight, 0.1 * weight), GivenCompletion(messages, "a text"))
    return ScoreRequest(completions, given, Distribution(0.7, 3, 0.8), reference, **kinds)


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def through_a_process(packed: object) -> object:
    return pickle.loads(pickle.dumps(packed, protocol=5))


def same_adapter(one: Adapter | None, other: Adapter | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = list(zip(one.parts, other.parts, strict=True))
    shapes = [(a.layout, a.learns) == (b.layout, b.learns) for a, b in pairs]
    return all(shapes) and all(same(a.values, b.values) and same(a.mix, b.mix) for a, b in pairs)


def test_sample_requests_come_out_as_they_went_in_and_in_order() -> None:
    shared = adapter(SMALL, 1)
    sent = [
        request("a", shared, keep=True),
        request("b"),
        request("c", adapter(LARGE, 2)),
        request("d", shared),
        request("e", adapter(SMALL, 3, torch.float32), keep=True),
    ]
    found = unpack_sample(through_a_process(pack_sample(sent)))  # type: ignore[arg-type]
    for got, gave in zip(found, sent, strict=True):
        assert replace(got, adapter=None) == replace(gave, adapter=None)
        assert same_adapter(got.adapter, gave.adapter)


def test_score_requests_come_out_as_they_went_in_and_in_order() -> None:
    static = Adapter(LARGE, adapter(LARGE, 5).values, learns=False)
    residual = Adapter(SMALL, adapter(SMALL, 1).values, base=static)
    bank = Adapter(SMALL, torch.ones(3, SMALL.size), static, mix=torch.tensor([0.1, 0.2, 0.7]))
    sent = [
        to_score(residual, static),
        to_score(None, kl=True, every=True),
        to_score(bank, keep=True, match=True, shortlist=7),
        to_score(Adapter(SMALL, residual.values, static), every=True),
    ]
    parcel = pack_score(sent)
    found = unpack_score(through_a_process(parcel))  # type: ignore[arg-type]
    for got, gave in zip(found, sent, strict=True):
        assert got.completions == gave.completions
        for name in ("distribution", "every", "kl", "keep", "match", "shortlist"):
            assert getattr(got, name) == getattr(gave, name)
        assert same_adapter(got.adapter, gave.adapter)
        assert same_adapter(got.reference, gave.reference)
    assert parcel.rows == 8
    assert [len(learnt_tensors(r.adapter for r in some)) for some in (sent, found)] == [3, 3]
    assert [array.shape for array in parcel.adapters.tensors.arrays] == [
        (1, SMALL.size), (1, LARGE.size), (1, 3, SMALL.size), (1, 3),
    ]  # fmt: skip


def test_a_adapter_that_episodes_share_travels_once_and_stays_shared() -> None:
    shared, other = adapter(SMALL, 1), adapter(SMALL, 2)
    parcel = pack_sample([request("a", shared), request("b", other), request("c", shared)])
    assert [array.shape for array in parcel.adapters.tensors.arrays] == [(2, SMALL.size)]
    one, two, three = (r.adapter for r in unpack_sample(parcel))
    assert one is not None
    assert two is not None
    assert three is not None
    assert one.values is three.values
    assert one.values is not two.values


def test_parcels_know_their_rows_and_the_tokens_of_the_longest() -> None:
    assert pack_sample([request("a"), request("b" * 40)]).rows == 2
    assert pack_sample([request("a"), request("b" * 40)]).length == (len("be brief") + 40) // 4 + 7
    scored = pack_score([to_score(adapter(SMALL, 1)), to_score(adapter(SMALL, 2))])
    assert (scored.rows, scored.length) == (4, len("a question") // 4 + len((1, 2)))
    asked = (Message("user", "a question"),)
    for completion, tokens in ((tuple(range(40)), 40), ("b" * 40, 40 // 4)):  # ids are counted, characters estimated
        scored = pack_score([ScoreRequest((GivenCompletion(asked, completion),))])
        assert scored.length == len("a question") // 4 + tokens


def test_scores_come_out_as_they_went_in() -> None:
    sent = Scores(
        ((Score((-0.1 - 0.2, -1.5), 0.25), None), (Score(()),)),
        (adapter(SMALL, 1).values, None, adapter(LARGE, 3, torch.float32).values, torch.ones(3, 4)),
    )
    found = unpack_scores(through_a_process(pack_scores(sent)))  # type: ignore[arg-type]
    assert found.completions == sent.completions
    assert all(g is None or isinstance(g, np.ndarray) for g in found.gradients), "a trial passes them on without torch"
    again = unpack_tensors(through_a_process(pack_tensors(found.gradients)))  # type: ignore[arg-type]
    assert all(same(got, gave) for got, gave in zip(again, sent.gradients, strict=True))


def test_lengths_and_precisions_stay_apart() -> None:
    sent = [torch.ones(3), torch.ones(3, dtype=torch.float64), None, torch.ones(5), torch.zeros(3)]
    packed = pack_tensors(sent)
    assert sorted((a.shape, a.dtype.name) for a in packed.arrays) == [
        ((1, 3), "float64"), ((1, 5), "float32"), ((2, 3), "float32"),
    ]  # fmt: skip
    assert all(same(got, gave) for got, gave in zip(unpack_tensors(packed), sent, strict=True))


@pytest.mark.parametrize("nothing", [[], [None, None]])
def test_nothing_packs_to_nothing(nothing: list[None]) -> None:
    packed = pack_tensors(nothing)
    assert packed.arrays == ()
    assert unpack_tensors(packed) == nothing


def test_what_came_out_of_an_object_store_is_seen_and_not_copied() -> None:
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        first, second, again = unpack_tensors(PackedTensors((array,), ((0, 0), (0, 1), (0, 0))))
    assert first is not None
    assert second is not None
    assert first is again
    assert first.tolist() == [0.0, 1.0, 2.0]
    assert second.tolist() == [3.0, 4.0, 5.0]
    assert np.shares_memory(second.numpy(), array)


def test_what_lies_somewhere_already_travels_as_a_reference() -> None:
    here, there = torch.ones(3), torch.ones(3)
    packed = pack_tensors([here, there, there], lambda tensor: Place("far", 7) if tensor is there else None)
    assert packed.where == ((0, 0), (1, 7), (1, 7))
    assert packed.arrays[1] == "far"


def test_large_tensors_do_not_share_an_array_with_too_many_others() -> None:
    large = [torch.full((CHUNK // 8,), float(i)) for i in range(5)]
    packed = pack_tensors(large)
    assert [array.shape[0] for array in packed.arrays] == [2, 2, 1]
    assert all(same(got, gave) for got, gave in zip(unpack_tensors(packed), large, strict=True))
