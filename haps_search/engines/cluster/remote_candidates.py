"""The pool's candidates as a trial asks them: requests become tickets, and answers completions or scores."""

from __future__ import annotations

import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster.parcels import cut_samples, cut_scores
from haps_search.engines.cluster.pool_client import Order, PoolClient
from haps_search.engines.cluster.store import Places, get_sampled, get_scored, put_requests
from haps_search.engines.cluster.wire import ScoredParcel, pack_sample, pack_score, unpack_scores
from haps_search.types import ModuleTable, Sampled, SampleRequest, ScoreRequest, Scores

REMEMBERED = 65_536
"""Completions of which it is known who drew them, until they are scored; one that is not prefers nobody."""


class RemoteCandidates:
    """One trial's; `places` are where its tensors lie already, so that they travel once."""

    def __init__(self, broker: Any, profile: ClusterProfile, places: Places | None = None, trial: str = "") -> None:
        self._profile, self._places = profile, places or Places()
        self._client = PoolClient(broker, trial or uuid.uuid4().hex[:16], profile.leases.attempts)
        self._drawn = Drawn()

    async def tables(self) -> dict[str, ModuleTable]:
        """As soon as all are loaded. Raises CandidateError, PoolError."""
        return await self._client.tables()

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """One completion per request, in order. Raises CandidateError, PoolError."""
        rows, most = self._rows(candidate, len(requests)), self._profile.leases.rows
        parcels = cut_samples(requests, rows, most, self._most_bytes)
        orders = []
        for parcel in parcels:
            put = partial(put_requests, pack_sample([requests[i] for i in parcel.places], self._places))
            orders.append(Order(candidate, "sample", parcel.rows, parcel.tokens, parcel.bytes, put))
        found: dict[int, Sampled] = {}
        for parcel, taken in zip(parcels, await self._client.ask(orders, get_sampled), strict=True):
            found |= zip(parcel.places, taken.answer.samples, strict=True)
            self._drawn.by(taken.worker, (found[i] for i in parcel.places if requests[i].keep))
        return [found[i] for i in range(len(requests))]

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        """Of all requests, in order; each ticket prefers who drew most of its completions.

        Raises CandidateError, PoolError.
        """
        from haps_search.candidates.partial import Piece, added, pieces

        # A gradient comes back for each part of a question: it is in parts only where it has more rows than a lease.
        split = pieces(requests, self._profile.leases.rows)
        parts = [part for piece in split for part in zip(piece.requests, piece.places, strict=True)]
        rows = self._rows(candidate, sum(len(request.read) for request in requests))
        prefers = [self._drawn.who(request) for request, _ in parts]
        parcels = cut_scores([request for request, _ in parts], rows, self._most_bytes, prefers)
        whole = [Piece(*zip(*(parts[i] for i in parcel.places), strict=True)) for parcel, _ in parcels]
        orders = []
        for piece, (parcel, worker) in zip(whole, parcels, strict=True):
            put = partial(put_requests, pack_score(piece.requests, self._places))
            orders.append(Order(candidate, "score", parcel.rows, parcel.tokens, parcel.bytes, put, worker))
        found = [self._opened(*taken.answer) for taken in await self._client.ask(orders, get_scored)]
        return added(requests, whole, found)

    def leave(self) -> None:
        """Nothing is wanted any more."""
        self._client.leave()

    def _rows(self, candidate: str, rows: int) -> int:
        """Of a ticket: so few that all replicas get some."""
        return max(1, min(self._profile.leases.rows, -(-rows // self._profile.workers_of(candidate))))

    @property
    def _most_bytes(self) -> float:
        return self._profile.leases.gb * 1e9

    def _opened(self, sealed: ScoredParcel, at_hand: ScoredParcel) -> Scores:
        scores = unpack_scores(at_hand)
        self._places.remember(scores.gradients, sealed.gradients)
        return scores


class Drawn:
    """Which worker drew a completion, by its token ids as the object that they are; told once, until it is scored."""

    def __init__(self) -> None:
        self._by: OrderedDict[int, tuple[tuple[int, ...], str]] = OrderedDict()

    def by(self, worker: str, samples: Iterable[Sampled]) -> None:
        for sampled in samples:
            self._by[id(sampled.token_ids)] = sampled.token_ids, worker
        while len(self._by) > REMEMBERED:
            self._by.popitem(last=False)

    def who(self, request: ScoreRequest) -> str:
        """The worker that drew most of a request's completions, "" where none is known."""
        known = [self._by.pop(id(c.completion), None) for c in request.completions]
        workers = Counter(worker for _, worker in filter(None, known))
        return max(workers, key=workers.__getitem__, default="")
