"""What is packed comes out as it went in, and shared adapters travel once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from haps_search.engines.cluster.wire import (
    PackedTensors,
    pack_requests,
    pack_responses,
    pack_tensors,
    unpack_requests,
    unpack_responses,
    unpack_tensors,
)
from haps_search.types import Adapter, AdapterLayout, LinearModule, Message, Request, Response, Sampling

SMALL = AdapterLayout(1, 0.5, (LinearModule("o_proj", 1, 3, 2, 1.0),))
LARGE = AdapterLayout(2, 1.0, (LinearModule("q_proj", 0, 4, 5, 2.0), LinearModule("q_proj", 1, 4, 5, 2.0)))


def adapter(layout: AdapterLayout, seed: int, dtype: torch.dtype = torch.float64) -> Adapter:
    return Adapter(layout, torch.randn(layout.size, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def request(text: str, given: Adapter | None = None, **kinds: bool) -> Request:
    messages = (Message("system", "be brief"), Message("user", text))
    return Request(messages, Sampling(7, 0.5, seed=3, top_k=4, top_p=0.9), given, **kinds)


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def through_a_process(packed: object) -> object:
    return pickle.loads(pickle.dumps(packed, protocol=5))


def test_requests_come_out_as_they_went_in_and_in_order() -> None:
    shared = adapter(SMALL, 1)
    sent = [
        request("a", shared, gradient=True),
        request("b"),
        request("c", adapter(LARGE, 2), gradient=True, kl=True),
        request("d", shared, kl=True),
        request("e", adapter(SMALL, 3, torch.float32)),
    ]
    found = unpack_requests(through_a_process(pack_requests(sent)))  # type: ignore[arg-type]
    assert [(r.messages, r.sampling, r.gradient, r.kl) for r in found] == [
        (r.messages, r.sampling, r.gradient, r.kl) for r in sent
    ]
    for got, gave in zip(found, sent, strict=True):
        assert (got.adapter and got.adapter.layout) == (gave.adapter and gave.adapter.layout)
        assert same(got.adapter and got.adapter.values, gave.adapter and gave.adapter.values)


def test_a_adapter_that_episodes_share_travels_once_and_stays_shared() -> None:
    shared, other = adapter(SMALL, 1), adapter(SMALL, 2)
    parcel = pack_requests([request("a", shared), request("b", other), request("c", shared)])
    assert [array.shape for array in parcel.adapters.arrays] == [(2, SMALL.size)]
    one, two, three = (r.adapter for r in unpack_requests(parcel))
    assert one is not None
    assert two is not None
    assert three is not None
    assert one.values is three.values
    assert one.values is not two.values


def test_a_parcel_knows_its_rows() -> None:
    assert pack_requests([request("a"), request("b")]).rows == 2


def test_responses_come_out_as_they_went_in_and_in_order() -> None:
    sent = [
        Response("a", (1, 2), -1.5, 4, 2, adapter(SMALL, 1).values, 0.25, adapter(SMALL, 2).values),
        Response("", (), 0.0, 9, 0),
        Response("c", (5,), -0.1 - 0.2, 3, 1, gradient=adapter(LARGE, 3, torch.float32).values),
        Response("d", (6,), -2.0, 3, 1, kl=0.5, kl_gradient=adapter(LARGE, 4).values),
    ]
    found = unpack_responses(through_a_process(pack_responses(sent)))  # type: ignore[arg-type]
    for got, gave in zip(found, sent, strict=True):
        assert same(got.gradient, gave.gradient)
        assert same(got.kl_gradient, gave.kl_gradient)
        plain = ("text", "token_ids", "log_likelihood", "prompt_tokens", "completion_tokens", "kl")
        assert [getattr(got, name) for name in plain] == [getattr(gave, name) for name in plain]


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


def test_arrays_that_nobody_may_write_to_become_tensors_of_their_own() -> None:
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False  # as they come out of an object store
    first, second = unpack_tensors(PackedTensors((array,), ((0, 0), (0, 1))))
    assert first is not None
    assert second is not None
    first += 1
    assert first.tolist() == [1.0, 2.0, 3.0]
    assert second.tolist() == [3.0, 4.0, 5.0]
    assert array[0, 0] == 0.0
