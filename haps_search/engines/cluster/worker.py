"""A pool worker: hosts one frozen candidate and answers what the broker leases to it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ObjectStoreFullError, OutOfDiskError

from haps_search.candidates.candidate import Candidate
from haps_search.config.candidates import CandidateConfig
from haps_search.engines.cluster.failures import unwrapped
from haps_search.engines.cluster.wire import (
    Done,
    Failure,
    RequestParcel,
    ResponseParcel,
    Work,
    pack_responses,
    unpack_requests,
)
from haps_search.errors import CandidateError, PoolError
from haps_search.types import Response

_log = logging.getLogger(__name__)
_PASSING = ActorUnavailableError, ObjectStoreFullError, OutOfDiskError
"""The network broke, or the node has no room for an answer in memory, or none to spill it."""
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
    start = ray.get(broker.arrive.remote(worker, config.name, node))
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
    while True:
        try:
            ray.get(broker.refuse.remote(worker, candidate, node, error))
            return
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
                session, done = ray.get(broker.register.remote(*what)), None
            work: Work | None = ray.get(broker.exchange.remote(worker, session, done, candidate.room))
        except _PASSING as error:
            # Not the broker's end. What was handed in may have arrived or not, so this worker begins again, and what
            # it held goes to the next lease.
            lost = f"its answer did not get through ({str(error).strip().splitlines()[0]})"
            _log.warning("%s begins again: %s", worker, lost)
            time.sleep(AGAIN_S)
            session = None
            continue
        except ray.exceptions.RayError as error:
            # A broker that ended the pool, or is gone itself: either way there is nobody left to serve.
            if isinstance(unwrapped(error), PoolError):
                return
            raise
        done = None if work is None else Done(work.lease, outcomes(candidate, work))


def outcomes(candidate: Candidate, work: Work) -> tuple[ResponseParcel | Failure, ...]:
    """Answer all parcels of a lease in one batch; where that fails, each alone, to find out whose fault it was."""
    requests = [unpack_requests(parcel) for parcel in work.parcels]
    try:
        return tuple(_split(work.parcels, candidate.respond([request for part in requests for request in part])))
    except Exception as error:
        if "CUDA error" in str(error):
            raise  # the device's context is broken: only a new process can go on
        failure = _failure(error)
    if len(work.parcels) == 1:
        return (failure,)
    return tuple(outcomes(candidate, Work(work.lease, (parcel,)))[0] for parcel in work.parcels)


def _split(parcels: Sequence[RequestParcel], answers: Sequence[Response]) -> list[ResponseParcel]:
    found, start = [], 0
    for parcel in parcels:
        found.append(pack_responses(answers[start : start + parcel.rows]))
        start += parcel.rows
    return found


def _failure(error: Exception) -> Failure:
    if isinstance(error, CandidateError):
        return Failure(error, final=True)
    return Failure(PoolError(f"{type(error).__name__}: {error}"), final=False)
