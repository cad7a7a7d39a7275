"""Which requests travel together: those of a question stay in one ticket, and lengths in a ticket are alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from haps_search.engines.cluster.wire import estimated_tokens
from haps_search.types import Request


@dataclass(frozen=True, slots=True)
class Parcel:
    """`rows` are places in the batch of requests; `tokens` and `bytes` as a ticket counts them."""

    rows: tuple[int, ...]
    tokens: int
    bytes: int


def cut(requests: Sequence[Request], rows: int, most_bytes: float) -> list[Parcel]:
    """Requests in parcels of at most so many rows and bytes, as far as groups allow, which are cut only where they
    alone have more. All of a group read the same, or under an adapter of their own."""
    batch = _Batch(requests)
    groups = sorted(batch.groups(), key=batch.longest)
    parts: list[list[int]] = []
    for piece in (piece for group in groups for piece in batch.pieces(group, rows, most_bytes)):
        if parts and batch.fit(joined := [*parts[-1], *piece], rows, most_bytes):
            parts[-1] = joined
        else:
            parts.append(piece)
    return [Parcel(tuple(part), len(part) * batch.longest(part), batch.bytes(part)) for part in parts]


class _Batch:
    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._lengths = [estimated_tokens(request.messages, request.sampling) for request in requests]

    def groups(self) -> Iterable[list[int]]:
        several = len({id(request.adapter.values) for request in self._requests if request.adapter}) > 1
        found: dict[object, list[int]] = {}
        for i, request in enumerate(self._requests):
            of = id(request.adapter.values) if several and request.adapter else request.messages
            found.setdefault(of, []).append(i)
        return found.values()

    def longest(self, rows: Sequence[int]) -> int:
        return max(self._lengths[i] for i in rows)

    def fit(self, rows: Sequence[int], most: int, most_bytes: float) -> bool:
        alike = self.longest(rows) <= 2 * min(self._lengths[i] for i in rows)
        return alike and len(rows) <= most and self.bytes(rows) <= most_bytes

    def pieces(self, group: Sequence[int], most: int, most_bytes: float) -> list[list[int]]:
        """The group, or parts of equal size where it is too large."""
        count = -(-len(group) // most)
        while count < len(group) and self.bytes(group[: -(-len(group) // count)]) > most_bytes:
            count += 1
        size = -(-len(group) // count)
        return [list(group[i : i + size]) for i in range(0, len(group), size)]

    def bytes(self, rows: Sequence[int]) -> int:
        """Of adapters on the way out, each once, and of gradients on the way back."""
        adapters, back = {}, 0
        for request in (self._requests[i] for i in rows):
            if request.adapter is not None:
                adapters[id(request.adapter.values)] = request.adapter.values.nbytes
                back += request.adapter.values.nbytes * (request.gradient + request.kl)
        return sum(adapters.values()) + back
