"""Which requests travel together: those of a question stay in one ticket, and lengths in a ticket are alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haps_search.engines.cluster.wire import estimated_tokens, given_tokens
from haps_search.types import Adapter, SampleRequest, ScoreRequest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Parcel:
    """`places` are those of its requests in the batch; `rows`, `tokens` and `bytes` as a ticket counts them."""

    places: tuple[int, ...]
    rows: int
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What stays together: one or more requests, their rows, the tokens of the longest, and who is to have them ("" for
    anyone). `sent` are the tensors that travel with them, `returned` those whose gradients come back."""

    places: tuple[int, ...]
    rows: int
    length: int
    sent: dict[int, int]
    returned: dict[int, int]
    prefers: str = ""

    @property
    def bytes(self) -> int:
        return sum(self.sent.values()) + sum(self.returned.values())

    def with_(self, other: Unit) -> Unit:
        return Unit(
            (*self.places, *other.places), self.rows + other.rows, max(self.length, other.length),
            self.sent | other.sent, self.returned | other.returned, self.prefers,
        )  # fmt: skip


def cut_samples(requests: Sequence[SampleRequest], rows: int, most_rows: int, most_bytes: float) -> list[Parcel]:
    """Requests in parcels of so many `rows` and at most so many bytes. All of a question read the same, or under an
    adapter of their own; they are cut only where they are more than `most_rows`."""
    lengths = [estimated_tokens(r.messages, r.sampling.max_new_tokens) for r in requests]
    units = []
    for group in _questions(requests):
        sent = _sizes(tensor for i in group for tensor in _tensors(requests[i].adapter))
        for start in range(0, len(group), most_rows):
            some = tuple(group[start : start + most_rows])
            units.append(Unit(some, len(some), max(lengths[i] for i in some), sent, {}))
    return [parcel for parcel, _ in _joined(units, rows, most_bytes)]


def cut_scores(
    requests: Sequence[ScoreRequest], rows: int, most_bytes: float, prefers: Sequence[str]
) -> list[tuple[Parcel, str]]:
    """Requests in parcels, each with the worker that `prefers` names for all of it. A request is never cut, whatever
    rows and bytes it has. Those of which nothing is asked are left out."""
    units = []
    for place, (request, worker) in enumerate(zip(requests, prefers, strict=True)):
        asked = [request.completions[i] for i in request.read]
        if asked:
            longest = max(map(given_tokens, asked))
            sent = _sizes((*_tensors(request.adapter), *_tensors(request.reference)))
            weighs = request.adapter is not None and any(c.weighs for c in asked)
            returned = _sizes(request.adapter.learnt) if weighs and request.adapter is not None else {}
            units.append(Unit((place,), len(asked), longest, sent, returned, worker))
    return list(_joined(units, rows, most_bytes))


def _questions(requests: Sequence[SampleRequest]) -> Iterable[list[int]]:
    several = len({id(request.adapter.values) for request in requests if request.adapter}) > 1
    found: dict[object, list[int]] = {}
    for i, request in enumerate(requests):
        of = id(request.adapter.values) if several and request.adapter else request.messages
        found.setdefault(of, []).append(i)
    return found.values()


def _joined(units: Sequence[Unit], rows: int, most_bytes: float) -> Iterator[tuple[Parcel, str]]:
    """Neighbours by worker and length share a parcel while limits allow; lengths differ by a factor of 2 at most."""
    whole: Unit | None = None
    shortest = 0
    for unit in sorted(units, key=lambda unit: (unit.prefers, unit.length)):
        more = whole.with_(unit) if whole is not None and whole.prefers == unit.prefers else None
        if more is not None and more.rows <= rows and more.bytes <= most_bytes and unit.length <= 2 * shortest:
            whole = more
            continue
        if whole is not None:
            yield _parcel(whole)
        whole, shortest = unit, unit.length
    if whole is not None:
        yield _parcel(whole)


def _parcel(unit: Unit) -> tuple[Parcel, str]:
    return Parcel(unit.places, unit.rows, unit.rows * unit.length, unit.bytes), unit.prefers


def _tensors(adapter: Adapter | None) -> tuple[Tensor, ...]:
    parts = adapter.parts if adapter is not None else ()
    return tuple(tensor for part in parts for tensor in (part.values, part.mix) if tensor is not None)


def _sizes(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each, once."""
    return {id(tensor): tensor.nbytes for tensor in tensors}
