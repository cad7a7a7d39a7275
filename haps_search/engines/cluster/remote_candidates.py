"""The pool's candidates as a trial asks them: requests become tickets, and answers responses."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster.parcels import Parcel, cut
from haps_search.engines.cluster.pool_client import Order, PoolClient
from haps_search.engines.cluster.store import Places, get_responses, put_requests
from haps_search.engines.cluster.wire import ResponseParcel, pack_requests, unpack_responses
from haps_search.types import ModuleTable, Request, Response


class RemoteCandidates:
    """One trial's; `places` are where its tensors lie already, so that they travel once."""

    def __init__(self, broker: Any, profile: ClusterProfile, places: Places | None = None, trial: str = "") -> None:
        self._profile, self._places = profile, places or Places()
        self._client = PoolClient(broker, trial or uuid.uuid4().hex[:16], profile.leases.attempts)

    async def tables(self) -> dict[str, ModuleTable]:
        """As soon as all are loaded. Raises CandidateError, PoolError."""
        return await self._client.tables()

    async def speak(self, candidate: str, requests: Sequence[Request]) -> list[Response]:
        """One response per request, in order. Raises CandidateError, PoolError."""
        leases = self._profile.leases
        # So few rows in a ticket that all replicas get some.
        rows = max(1, min(leases.rows, -(-len(requests) // self._profile.workers_of(candidate))))
        parcels = cut(requests, rows, leases.gb * 1e9)
        orders = [self._order(candidate, parcel, [requests[i] for i in parcel.rows]) for parcel in parcels]
        found: dict[int, Response] = {}
        for parcel, taken in zip(parcels, await self._client.ask(orders, get_responses), strict=True):
            found |= zip(parcel.rows, self._responses(*taken.answer), strict=True)
        return [found[i] for i in range(len(requests))]

    def leave(self) -> None:
        self._client.leave()

    def _order(self, candidate: str, parcel: Parcel, requests: Sequence[Request]) -> Order:
        put = partial(put_requests, pack_requests(requests, self._places))
        return Order(candidate, "sample", len(requests), parcel.tokens, parcel.bytes, put)

    def _responses(self, sealed: ResponseParcel, at_hand: ResponseParcel) -> list[Response]:
        responses = unpack_responses(at_hand)
        self._places.remember([r.gradient for r in responses], sealed.gradients)
        self._places.remember([r.kl_gradient for r in responses], sealed.kl_gradients)
        return responses
