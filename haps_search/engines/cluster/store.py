"""Payloads in Ray's object store: who made a tensor puts it there once, and it is passed on by reference."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from haps_search.engines.cluster.wire import (
    AnswerParcel,
    PackedTensors,
    Place,
    RequestParcel,
    SampledParcel,
    ScoredParcel,
)

if TYPE_CHECKING:
    from torch import Tensor

INLINE = 65_536
"""Bytes of an array up to which it travels in its parcel: an object of its own would cost more."""
FETCH_S = 120.0
"""How long fetching the objects of a ticket may take; then they count as lost."""
LOST = ObjectLostError, GetTimeoutError
"""What Ray raises where an object is no more to be had; that its owner died is an ObjectLostError too."""


def stored(packed: PackedTensors) -> PackedTensors:
    """The same with every larger array in the store, owned by this process."""
    arrays = tuple(ray.put(a) if isinstance(a, np.ndarray) and a.nbytes > INLINE else a for a in packed.arrays)
    return PackedTensors(arrays, packed.where)


def fetched(packed: Sequence[PackedTensors]) -> list[PackedTensors]:
    """The same with every array at hand. Raises one of `LOST`."""
    wanted = {a for each in packed for a in each.arrays if isinstance(a, ray.ObjectRef)}
    found = dict(zip(wanted, ray.get(list(wanted), timeout=FETCH_S), strict=True))

    def at_hand(array: Any) -> Any:
        return found[array] if isinstance(array, ray.ObjectRef) else array

    return [PackedTensors(tuple(map(at_hand, each.arrays)), each.where) for each in packed]


def put_requests(parcel: RequestParcel) -> Any:
    adapters = replace(parcel.adapters, tensors=stored(parcel.adapters.tensors))
    return ray.put(replace(parcel, adapters=adapters))


def put_answer(parcel: AnswerParcel) -> Any:
    if isinstance(parcel, SampledParcel):
        return ray.put(parcel)
    return ray.put(replace(parcel, gradients=stored(parcel.gradients)))


def get_requests(references: Sequence[Any]) -> list[RequestParcel]:
    """Raises one of `LOST`."""
    parcels: list[RequestParcel] = ray.get(list(references), timeout=FETCH_S)
    tensors = fetched([parcel.adapters.tensors for parcel in parcels])
    return [
        replace(parcel, adapters=replace(parcel.adapters, tensors=each))
        for parcel, each in zip(parcels, tensors, strict=True)
    ]


def get_sampled(reference: Any) -> SampledParcel:
    """Raises one of `LOST`."""
    parcel: SampledParcel = ray.get(reference, timeout=FETCH_S)
    return parcel


def get_scored(reference: Any) -> tuple[ScoredParcel, ScoredParcel]:
    """Scores as they lie in the store, and the same with their arrays at hand. Raises one of `LOST`."""
    sealed: ScoredParcel = ray.get(reference, timeout=FETCH_S)
    (gradients,) = fetched([sealed.gradients])
    return sealed, replace(sealed, gradients=gradients)


class Places:
    """Where this process's tensors lie in the store, by identity, for as long as they live."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[weakref.ref[Tensor], Place]] = {}

    def __call__(self, tensor: Tensor) -> Place | None:
        found = self._places.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def remember(self, tensors: Sequence[Tensor | None], packed: PackedTensors) -> None:
        """Of tensors that came from `packed`, those whose arrays are references."""
        for tensor, at in zip(tensors, packed.where, strict=True):
            if tensor is not None and at is not None and isinstance(packed.arrays[at[0]], ray.ObjectRef):
                self._keep(tensor, Place(packed.arrays[at[0]], at[1]))

    def forget(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._places.pop(id(tensor), None)

    def _keep(self, tensor: Tensor, place: Place) -> None:
        key = id(tensor)
        self._places[key] = weakref.ref(tensor, lambda _: self._places.pop(key, None)), place
