"""What crosses processes: batches packed so that their tensors travel as a few arrays.

Payload objects dominate the cost of a request, so a parcel holds many requests and each distinct adapter once.
Nothing here needs torch until a parcel is opened: the broker passes parcels on unopened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from haps_search.errors import CandidateError, HapsError
from haps_search.types import (
    Adapter,
    AdapterLayout,
    Distribution,
    GivenCompletion,
    Message,
    Sampled,
    SampleRequest,
    Score,
    ScoreRequest,
    Scores,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """Tensors of one shape each as rows of one array; `where[i]` is (array, row), or None where absent."""

    arrays: tuple[np.ndarray[Any, Any], ...]
    where: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class BarePart:
    """A part of an adapter without its tensors: its numbers, and its mixing coefficients where it is a bank."""

    layout: AdapterLayout
    mixed: bool
    learns: bool


@dataclass(frozen=True, slots=True)
class PackedAdapters:
    """Adapters part by part, None for the frozen model, and their tensors in the same order."""

    parts: tuple[tuple[BarePart, ...] | None, ...]
    tensors: PackedTensors


@dataclass(frozen=True, slots=True)
class BareScoreRequest:
    """A score request without its adapters."""

    completions: tuple[GivenCompletion, ...]
    distribution: Distribution
    every: bool
    kl: bool
    keep: bool

    @property
    def length(self) -> int:
        """Tokens of its longest completion with its prompt, by estimate."""
        return max((estimated_tokens(c.messages, len(c.completion)) for c in self.completions), default=0)


@dataclass(frozen=True, slots=True)
class SampleParcel:
    """Sample requests of one trial for one candidate, their adapters apart. Made by the engine, opened by a worker."""

    requests: tuple[SampleRequest, ...]
    adapters: PackedAdapters

    @property
    def rows(self) -> int:
        return len(self.requests)

    @property
    def length(self) -> int:
        """Tokens of its longest request with its answer, by estimate."""
        return max((estimated_tokens(r.messages, r.sampling.max_new_tokens) for r in self.requests), default=0)


@dataclass(frozen=True, slots=True)
class ScoreParcel:
    """Score requests of one trial for one candidate; `adapters` has of each its own and then its reference."""

    requests: tuple[BareScoreRequest, ...]
    adapters: PackedAdapters

    @property
    def rows(self) -> int:
        return sum(len(r.completions) for r in self.requests)

    @property
    def length(self) -> int:
        return max((r.length for r in self.requests), default=0)


@dataclass(frozen=True, slots=True)
class SampledParcel:
    """What was drawn, in the order of the requests. Made by a worker, opened by the engine."""

    samples: tuple[Sampled, ...]

    @property
    def known(self) -> int:
        """Prompts that the worker still had."""
        return sum(sampled.prompt_known for sampled in self.samples)


@dataclass(frozen=True, slots=True)
class ScoredParcel:
    """Scores in the order of the requests, and a gradient per distinct learnt tensor. Made and opened likewise."""

    completions: tuple[tuple[Score | None, ...], ...]
    gradients: PackedTensors
    known: int = 0


RequestParcel = SampleParcel | ScoreParcel
AnswerParcel = SampledParcel | ScoredParcel


def estimated_tokens(messages: Sequence[Message], new_tokens: int) -> int:
    """Four characters to a token, and those to be sampled: good enough to tell long requests from short ones."""
    return sum(len(message.content) for message in messages) // 4 + new_tokens


def pack_sample(requests: Sequence[SampleRequest]) -> SampleParcel:
    bare = tuple(replace(request, adapter=None) for request in requests)
    return SampleParcel(bare, pack_adapters([request.adapter for request in requests]))


def unpack_sample(parcel: SampleParcel) -> list[SampleRequest]:
    adapters = unpack_adapters(parcel.adapters)
    return [replace(bare, adapter=adapter) for bare, adapter in zip(parcel.requests, adapters, strict=True)]


def pack_score(requests: Sequence[ScoreRequest]) -> ScoreParcel:
    bare = tuple(BareScoreRequest(r.completions, r.distribution, r.every, r.kl, r.keep) for r in requests)
    return ScoreParcel(bare, pack_adapters([adapter for r in requests for adapter in (r.adapter, r.reference)]))


def unpack_score(parcel: ScoreParcel) -> list[ScoreRequest]:
    adapters = iter(unpack_adapters(parcel.adapters))
    return [
        ScoreRequest(r.completions, next(adapters), r.distribution, next(adapters), r.every, r.kl, r.keep)
        for r in parcel.requests
    ]


def pack_scores(scores: Scores) -> ScoredParcel:
    return ScoredParcel(scores.completions, pack_tensors(scores.gradients))


def unpack_scores(parcel: ScoredParcel) -> Scores:
    return Scores(parcel.completions, tuple(unpack_tensors(parcel.gradients)))


def pack_adapters(adapters: Sequence[Adapter | None]) -> PackedAdapters:
    """What adapters share travels once and stays shared."""
    tensors, parts = [], []
    for adapter in adapters:
        held = () if adapter is None else adapter.parts
        parts.append(None if adapter is None else tuple(BarePart(p.layout, p.mix is not None, p.learns) for p in held))
        tensors += [tensor for part in held for tensor in (part.values, part.mix) if tensor is not None]
    return PackedAdapters(tuple(parts), pack_tensors(tensors))


def unpack_adapters(packed: PackedAdapters) -> list[Adapter | None]:
    tensors = iter(unpack_tensors(packed.tensors))
    return [None if parts is None else _assembled(parts, tensors) for parts in packed.parts]


def _assembled(parts: Sequence[BarePart], tensors: Iterator[Tensor | None]) -> Adapter:
    held = [(part, next(tensors), next(tensors) if part.mixed else None) for part in parts]
    adapter: Adapter | None = None
    for part, values, mix in reversed(held):
        assert values is not None
        adapter = Adapter(part.layout, values, adapter, mix, part.learns)
    assert adapter is not None
    return adapter


def pack_tensors(tensors: Sequence[Tensor | None]) -> PackedTensors:
    """Equal objects are sent once: the episodes of a question share its adapter."""
    stacks: dict[tuple[Any, str], tuple[int, list[np.ndarray[Any, Any]]]] = {}
    seen: dict[int, tuple[int, int]] = {}
    where: list[tuple[int, int] | None] = []
    for tensor in tensors:
        if tensor is None:
            where.append(None)
            continue
        if id(tensor) not in seen:
            array = tensor.numpy()
            number, rows = stacks.setdefault((array.shape, array.dtype.str), (len(stacks), []))
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
    outcomes: tuple[AnswerParcel | Failure, ...]


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
