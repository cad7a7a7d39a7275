"""Payloads of tickets: batches packed so that their tensors travel as a few arrays, each once.

Objects dominate the cost of a request, so a parcel holds many requests and each distinct adapter once. An array that
lies in Ray's object store already stands as a reference to it. A trial only passes tensors on: there they stay arrays,
and nothing needs torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

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


warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)

Array = np.ndarray[Any, Any]
CHUNK = 4_000_000
"""Bytes of an array from which on a new one is begun, so that who needs a part does not fetch all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: a row of an array that a reference names."""

    reference: Any
    row: int


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """Tensors of one shape each as rows of arrays, or of references to such; `where[i]` is (array, row), or None where
    absent."""

    arrays: tuple[Any, ...]
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
    match: bool
    shortlist: int

    @property
    def length(self) -> int:
        """Tokens of its longest completion with its prompt, by estimate."""
        return max(map(given_tokens, self.completions), default=0)


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


Placed = Callable[["Tensor"], Place | None]
"""Where a tensor lies already, None where it has to travel."""


Opened = Callable[[PackedTensors], list[Any]]


def _nowhere(tensor: Tensor) -> Place | None:
    return None


def estimated_tokens(messages: Sequence[Message], new_tokens: int) -> int:
    """Four characters to a token, and those to be sampled: good enough to tell long requests from short ones."""
    return sum(len(message.content) for message in messages) // 4 + new_tokens


def given_tokens(given: GivenCompletion) -> int:
    """The same of a completion that is there, as token ids or as text."""
    long = len(given.completion)
    return estimated_tokens(given.messages, long // 4 if isinstance(given.completion, str) else long)


def pack_sample(requests: Sequence[SampleRequest], placed: Placed = _nowhere) -> SampleParcel:
    bare = tuple(replace(request, adapter=None) for request in requests)
    return SampleParcel(bare, pack_adapters([request.adapter for request in requests], placed))


def unpack_sample(parcel: SampleParcel) -> list[SampleRequest]:
    adapters = unpack_adapters(parcel.adapters)
    return [replace(bare, adapter=adapter) for bare, adapter in zip(parcel.requests, adapters, strict=True)]


def pack_score(requests: Sequence[ScoreRequest], placed: Placed = _nowhere) -> ScoreParcel:
    bare = tuple(
        BareScoreRequest(r.completions, r.distribution, r.every, r.kl, r.keep, r.match, r.shortlist) for r in requests
    )
    adapters = [adapter for r in requests for adapter in (r.adapter, r.reference)]
    return ScoreParcel(bare, pack_adapters(adapters, placed))


def unpack_score(parcel: ScoreParcel) -> list[ScoreRequest]:
    adapters = iter(unpack_adapters(parcel.adapters))
    return [
        ScoreRequest(
            r.completions, next(adapters), r.distribution, next(adapters), r.every, r.kl, r.keep, r.match, r.shortlist
        )
        for r in parcel.requests
    ]


def pack_scores(scores: Scores) -> ScoredParcel:
    return ScoredParcel(scores.completions, pack_tensors(scores.gradients))


def unpack_scores(parcel: ScoredParcel) -> Scores:
    """As the trial has them: gradients are arrays."""
    return Scores(parcel.completions, tuple(unpack_arrays(parcel.gradients)))


def pack_adapters(adapters: Sequence[Adapter | None], placed: Placed = _nowhere) -> PackedAdapters:
    """What adapters share travels once and stays shared."""
    tensors, parts = [], []
    known: dict[tuple[tuple[int, bool, bool], ...], tuple[BarePart, ...]] = {}  # equal ones are written once
    for adapter in adapters:
        held = () if adapter is None else adapter.parts
        key = tuple((id(p.layout), p.mix is not None, p.learns) for p in held)
        bare = known.setdefault(key, tuple(BarePart(p.layout, p.mix is not None, p.learns) for p in held))
        parts.append(None if adapter is None else bare)
        tensors += [tensor for part in held for tensor in (part.values, part.mix) if tensor is not None]
    return PackedAdapters(tuple(parts), pack_tensors(tensors, placed))


def unpack_adapters(packed: PackedAdapters, opened: Opened | None = None) -> list[Adapter | None]:
    """`opened` makes their tensors, or in a trial the arrays that stand for them."""
    tensors = iter((opened or unpack_tensors)(packed.tensors))
    return [None if parts is None else _assembled(parts, tensors) for parts in packed.parts]


def _assembled(parts: Sequence[BarePart], tensors: Iterator[Tensor | None]) -> Adapter:
    held = [(part, next(tensors), next(tensors) if part.mixed else None) for part in parts]
    adapter: Adapter | None = None
    for part, values, mix in reversed(held):
        assert values is not None
        adapter = Adapter(part.layout, values, adapter, mix, part.learns)
    assert adapter is not None
    return adapter


def pack_tensors(tensors: Sequence[Tensor | None], placed: Placed = _nowhere) -> PackedTensors:
    """Equal objects are sent once: the episodes of a question share its adapter."""
    packing = _Packing()
    where = tuple(None if tensor is None else packing.add(tensor, placed) for tensor in tensors)
    return PackedTensors(packing.arrays(), where)


def unpack_tensors(packed: PackedTensors) -> list[Tensor | None]:
    """The arrays have to be at hand; the tensors are views of them, equal ones one object.

    Nobody may write to them: an array out of Ray's object store is everybody's.
    """
    if not any(packed.where):
        return [None] * len(packed.where)
    import torch

    return _rows(packed, torch.from_numpy)


def unpack_arrays(packed: PackedTensors) -> list[Any]:
    """The same as the arrays that they are, which pack as tensors do."""
    return _rows(packed, lambda array: array)


def _rows(packed: PackedTensors, made: Callable[[Array], Any]) -> list[Any]:
    rows = {at: made(packed.arrays[at[0]][at[1]]) for at in set(packed.where) if at is not None}
    return [None if at is None else rows[at] for at in packed.where]


class _Packing:
    def __init__(self) -> None:
        self._arrays: list[list[Array] | Any] = []
        self._open: dict[tuple[tuple[int, ...], str], int] = {}
        self._referred: dict[Any, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}

    def add(self, tensor: Tensor, placed: Placed) -> tuple[int, int]:
        if id(tensor) not in self._seen:
            place = placed(tensor)
            self._seen[id(tensor)] = self._refer(place) if place else self._stacked(_array(tensor))
        return self._seen[id(tensor)]

    def arrays(self) -> tuple[Any, ...]:
        return tuple(_stack(array) if isinstance(array, list) else array for array in self._arrays)

    def _refer(self, place: Place) -> tuple[int, int]:
        if place.reference not in self._referred:
            self._referred[place.reference] = len(self._arrays)
            self._arrays.append(place.reference)
        return self._referred[place.reference], place.row

    def _stacked(self, array: Array) -> tuple[int, int]:
        like = array.shape, array.dtype.str
        number = self._open.get(like)
        if number is None or len(self._arrays[number]) * array.nbytes >= CHUNK:
            number = self._open[like] = len(self._arrays)
            self._arrays.append([])
        self._arrays[number].append(array)
        return number, len(self._arrays[number]) - 1


def _array(tensor: Any) -> Array:
    found: Array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
    return found


def _stack(rows: Sequence[Array]) -> Array:
    """One more dimension, without a copy where it is 1."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
