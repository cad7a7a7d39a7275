"""A pool worker: hosts one frozen candidate and answers what the broker leases to it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, ObjectStoreFullError, OutOfDiskError

from haps_search.candidates.candidate import Candidate
from haps_search.config.candidates import CandidateConfig
from haps_search.engines.cluster.failures import first_line, unwrapped
from haps_search.engines.cluster.protocol import Answered, Done, Failure, Lost, Result, Work
from haps_search.engines.cluster.store import LOST, get_requests, put_responses
from haps_search.engines.cluster.wire import RequestParcel, pack_responses, unpack_requests
from haps_search.errors import CandidateError, PoolError
from haps_search.types import Request, Response

_log = logging.getLogger(__name__)
_PASSING = ActorUnavailableError, GetTimeoutError, ObjectStoreFullError, OutOfDiskError
"""The network broke, or the node has no room for an answer in memory, or none to spill it."""
CALL_S = 60.0
"""How long a call of the broker may take; its polls end long before."""
AGAIN_S = 1.0
"""After a call that did not get through, before the next."""


def host(settings: Mapping[str, Any]) -> None:
    """The train loop of the pool's Ray Train run: rank i hosts the candidate of seat i.

    It never reports to Train: that is a barrier over ranks, and candidates do not know one another.
    """
    from ray.train import get_context

    from haps_search.candidates.frozen_lm import FrozenLM
    from haps_search.engines.assembly import prepare_torch

    prepare_torch(settings["threads"], settings["gpus"])
    rank = get_context().get_world_rank()
    config = CandidateConfig.model_validate(settings["seats"][rank])
    broker: Any = ray.get_actor(settings["broker"], namespace=settings["namespace"])
    worker, node = f"{config.name}/{settings['crew']}.{rank}", ray.get_runtime_context().get_node_id()
    start = ray.get(broker.arrive.remote(worker, config.name, node), timeout=CALL_S)
    if not start:
        return
    try:
        candidate = FrozenLM.load(config)
    except CandidateError as error:
        # Here it would fail again, so nobody should wait for a restart: the driver looks for another node.
        stand_aside(broker, worker, config.name, node, error)
        return
    serve(broker, worker, candidate, node, start)


def stand_aside(broker: Any, worker: str, candidate: str, node: str, error: CandidateError) -> None:
    """Hold a seat that no other is to get, until the pool ends."""
    over = False
    while not over:
        try:
            over = ray.get(broker.refuse.remote(worker, candidate, node, error), timeout=CALL_S)
        except _PASSING:
            time.sleep(AGAIN_S)


def serve(broker: Any, worker: str, candidate: Candidate, node: str, start: int) -> None:
    """Answer leases until the pool ends or this worker is replaced. `start` is what `arrive` gave it."""
    session: int | None = None
    done: Done | None = None
    lost = ""
    while True:
        try:
            if session is None:
                what = worker, candidate.table, os.getpid(), node, start, lost
                session, done = ray.get(broker.register.remote(*what), timeout=CALL_S), None
            asked = broker.exchange.remote(worker, session, done, candidate.room)
            work: Work | None = ray.get(asked, timeout=CALL_S)
            done = None if work is None else Done(work.lease, results(candidate, work))
        except _PASSING as error:
            # Not the broker's end. What was handed in may have arrived or not, so this worker begins again, and what
            # it held goes to the next lease.
            lost = f"its answer did not get through ({first_line(error)})"
            _log.warning("%s begins again: %s", worker, lost)
            time.sleep(AGAIN_S)
            session = None
        except ray.exceptions.RayError as error:
            # A broker that ended the pool, or is gone itself: either way there is nobody left to serve.
            if isinstance(unwrapped(error), PoolError):
                return
            raise


def results(candidate: Candidate, work: Work) -> tuple[Result, ...]:
    """Fetch what a lease refers to, and answer all of it that is there."""
    parcels = _fetched(work.payloads)
    there = [parcel for parcel in parcels if isinstance(parcel, RequestParcel)]
    answers = iter(outcomes(candidate, there) if there else ())
    return tuple(next(answers) if isinstance(parcel, RequestParcel) else parcel for parcel in parcels)


def _fetched(payloads: Sequence[Any]) -> Sequence[RequestParcel | Lost]:
    """All at once; where one is lost each alone."""
    try:
        return get_requests(payloads)
    except LOST as error:
        if len(payloads) == 1:
            return (Lost(f"its request was lost ({first_line(error)})"),)
    return [_fetched((payload,))[0] for payload in payloads]


def outcomes(candidate: Candidate, parcels: Sequence[RequestParcel]) -> tuple[Answered | Failure, ...]:
    """Answer all parcels in one batch; where that fails, each alone, to find out whose fault it was."""
    requests: list[Request] = [request for parcel in parcels for request in unpack_requests(parcel)]
    try:
        answers = candidate.respond(requests)
    except Exception as error:
        if "CUDA error" in str(error):
            raise  # the device's context is broken: only a new process can go on
        failure = _failure(error)
    else:
        return tuple(_put(parcels, answers))
    if len(parcels) == 1:
        return (failure,)
    return tuple(outcomes(candidate, (parcel,))[0] for parcel in parcels)


def _put(parcels: Sequence[RequestParcel], answers: Sequence[Response]) -> list[Answered]:
    found, start = [], 0
    for parcel in parcels:
        own = answers[start : start + parcel.rows]
        found.append(Answered(put_responses(pack_responses(own)), sum(response.prompt_known for response in own)))
        start += parcel.rows
    return found


def _failure(error: Exception) -> Failure:
    if isinstance(error, CandidateError):
        return Failure(error, final=True)
    return Failure(PoolError(f"{type(error).__name__}: {error}"), final=False)
