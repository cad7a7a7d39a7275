"""What crosses processes: batches packed so that their tensors travel as a few arrays.

Payload objects dominate the cost of a request, so a parcel holds many requests and each distinct adapter once.
Nothing here needs torch until a parcel is opened: the broker passes parcels on unopened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from haps_search.errors import CandidateError, HapsError
from haps_search.types import Adapter, AdapterLayout, Message, Request, Response, Sampling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """Flat tensors as one (n, P) array per length; `where[i]` is (array, row), or None where absent."""

    arrays: tuple[np.ndarray[Any, Any], ...]
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


def pack_requests(requests: Sequence[Request]) -> RequestParcel:
    bare = tuple(BareRequest(r.messages, r.sampling, r.gradient, r.kl) for r in requests)
    layouts = tuple(r.adapter.layout if r.adapter else None for r in requests)
    return RequestParcel(bare, layouts, pack_tensors([r.adapter.values if r.adapter else None for r in requests]))


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


def pack_tensors(tensors: Sequence[Tensor | None]) -> PackedTensors:
    """Equal objects are sent once: the episodes of a question share its adapter."""
    stacks: dict[tuple[int, str], tuple[int, list[np.ndarray[Any, Any]]]] = {}
    seen: dict[int, tuple[int, int]] = {}
    where: list[tuple[int, int] | None] = []
    for tensor in tensors:
        if tensor is None:
            where.append(None)
            continue
        if id(tensor) not in seen:
            array = tensor.numpy()
            number, rows = stacks.setdefault((array.size, array.dtype.str), (len(stacks), []))
            rows.append(array)
            seen[id(tensor)] = number, len(rows) - 1
        where.append(seen[id(tensor)])
    return PackedTensors(tuple(np.stack(rows) for _, rows in stacks.values()), tuple(where))


def unpack_tensors(packed: PackedTensors) -> list[Tensor | None]:
    import torch

    # Arrays out of Ray's object store are read-only, and torch wants to own what it may write to.
    arrays = [torch.from_numpy(array.copy()) for array in packed.arrays]
    rows = {at: arrays[at[0]][at[1]] for at in set(packed.where) if at is not None}
    return [None if at is None else rows[at] for at in packed.where]


@dataclass(frozen=True, slots=True)
class Work:
    """A lease as the worker sees it: parcels to answer, in order."""

    lease: int
    parcels: tuple[RequestParcel, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of a parcel that has no answer. `final`: trying again cannot help."""

    error: HapsError
    final: bool


@dataclass(frozen=True, slots=True)
class Done:
    """A lease's outcome, one entry per parcel."""

    lease: int
    outcomes: tuple[ResponseParcel | Failure, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that did not load, and the node where it did not. Made by a worker, answered by the driver."""

    candidate: str
    node: str
    error: CandidateError


@dataclass(frozen=True, slots=True)
class Tended:
    """What the broker tells the driver: refusals not told before, per candidate that is awaited and has no worker the
    seconds until the pool gives it up, per candidate that is loaded for the first time the seconds since that began,
    and why the pool has ended, None while it has not."""

    refusals: tuple[Refusal, ...]
    missing: Mapping[str, float]
    loading: Mapping[str, float]
    ended: str | None
