"""Payloads of tickets: batches packed so that their tensors travel as a few arrays, each once.

Objects dominate the cost of a request, so a parcel holds many requests and each distinct adapter once. An array that
lies in Ray's object store already stands as a reference to it. Nothing here needs torch where there are no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from haps_search.types import Adapter, AdapterLayout, Message, Request, Response, Sampling

if TYPE_CHECKING:
    from torch import Tensor


Array = np.ndarray[Any, Any]
CHUNK = 4_000_000
"""Bytes of an array from which on a new one is begun, so that who needs a part does not fetch all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a flat tensor lies: a row of an (n, P) array that a reference names; `nbytes` are the tensor's own."""

    reference: Any
    row: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """Flat tensors as (n, P) arrays of one length each, or references to such; `where[i]` is (array, row), or None
    where absent."""

    arrays: tuple[Any, ...]
    where: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class BareRequest:
    """A request without its adapter."""

    messages: tuple[Message, ...]
    sampling: Sampling
    gradient: bool
    kl: bool


@dataclass(frozen=True, slots=True)
class RequestParcel:
    """Requests of one trial for one candidate. Made by the engine, opened by a worker."""

    requests: tuple[BareRequest, ...]
    layouts: tuple[AdapterLayout | None, ...]
    adapters: PackedTensors

    @property
    def rows(self) -> int:
        return len(self.requests)

    @property
    def length(self) -> int:
        """Tokens of its longest request with its answer, by estimate."""
        return max((estimated_tokens(r.messages, r.sampling) for r in self.requests), default=0)


@dataclass(frozen=True, slots=True)
class ResponseParcel:
    """Responses in the order of the requests. Made by a worker, opened by the engine."""

    responses: tuple[Response, ...]
    gradients: PackedTensors
    kl_gradients: PackedTensors


def estimated_tokens(messages: Sequence[Message], sampling: Sampling) -> int:
    """Four characters to a token, and those to be written: good enough to tell long requests from short ones."""
    return sum(len(message.content) for message in messages) // 4 + sampling.max_new_tokens


Placed = Callable[["Tensor"], Place | None]
"""Where a tensor lies already, None where it has to travel."""


def _nowhere(tensor: Tensor) -> Place | None:
    return None


def pack_requests(requests: Sequence[Request], placed: Placed = _nowhere) -> RequestParcel:
    bare = tuple(BareRequest(r.messages, r.sampling, r.gradient, r.kl) for r in requests)
    layouts = tuple(r.adapter.layout if r.adapter else None for r in requests)
    values = [r.adapter.values if r.adapter else None for r in requests]
    return RequestParcel(bare, layouts, pack_tensors(values, placed))


def unpack_requests(parcel: RequestParcel) -> list[Request]:
    values = unpack_tensors(parcel.adapters)
    found = []
    for bare, layout, value in zip(parcel.requests, parcel.layouts, values, strict=True):
        adapter = None if layout is None or value is None else Adapter(layout, value)
        found.append(Request(bare.messages, bare.sampling, adapter, bare.gradient, bare.kl))
    return found


def pack_responses(responses: Sequence[Response]) -> ResponseParcel:
    return ResponseParcel(
        tuple(replace(r, gradient=None, kl_gradient=None) for r in responses),
        pack_tensors([r.gradient for r in responses]),
        pack_tensors([r.kl_gradient for r in responses]),
    )


def unpack_responses(parcel: ResponseParcel) -> list[Response]:
    gradients, kl_gradients = unpack_tensors(parcel.gradients), unpack_tensors(parcel.kl_gradients)
    return [
        replace(r, gradient=g, kl_gradient=k) for r, g, k in zip(parcel.responses, gradients, kl_gradients, strict=True)
    ]


def pack_tensors(tensors: Sequence[Tensor | None], placed: Placed = _nowhere) -> PackedTensors:
    """Equal objects are sent once: the episodes of a question share its adapter."""
    packing = _Packing()
    where = tuple(None if tensor is None else packing.add(tensor, placed) for tensor in tensors)
    return PackedTensors(packing.arrays(), where)


def unpack_tensors(packed: PackedTensors) -> list[Tensor | None]:
    """The arrays have to be at hand. Every row becomes a tensor of its own, once."""
    if not any(packed.where):
        return [None] * len(packed.where)
    import torch

    # Arrays out of Ray's object store are read-only, and torch wants to own what it may write to.
    rows = {at: torch.from_numpy(packed.arrays[at[0]][at[1]].copy()) for at in set(packed.where) if at is not None}
    return [None if at is None else rows[at] for at in packed.where]


class _Packing:
    def __init__(self) -> None:
        self._arrays: list[list[Array] | Any] = []
        self._open: dict[tuple[int, str], int] = {}
        self._referred: dict[Any, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}

    def add(self, tensor: Tensor, placed: Placed) -> tuple[int, int]:
        if id(tensor) not in self._seen:
            place = placed(tensor)
            self._seen[id(tensor)] = self._stacked(tensor.numpy()) if place is None else self._refer(place)
        return self._seen[id(tensor)]

    def arrays(self) -> tuple[Any, ...]:
        return tuple(_stack(array) if isinstance(array, list) else array for array in self._arrays)

    def _refer(self, place: Place) -> tuple[int, int]:
        if place.reference not in self._referred:
            self._referred[place.reference] = len(self._arrays)
            self._arrays.append(place.reference)
        return self._referred[place.reference], place.row

    def _stacked(self, array: Array) -> tuple[int, int]:
        like = array.size, array.dtype.str
        number = self._open.get(like)
        if number is None or len(self._arrays[number]) * array.nbytes >= CHUNK:
            number = self._open[like] = len(self._arrays)
            self._arrays.append([])
        self._arrays[number].append(array)
        return number, len(self._arrays[number]) - 1


def _stack(rows: Sequence[Array]) -> Array:
    """(n, P), without a copy where n is 1."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
