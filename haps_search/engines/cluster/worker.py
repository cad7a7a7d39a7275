"""A pool worker: hosts one frozen candidate and answers what the broker leases to it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ObjectStoreFullError, OutOfDiskError

from haps_search.candidates.candidate import Candidate
from haps_search.config.candidates import CandidateConfig
from haps_search.engines.cluster.failures import unwrapped
from haps_search.engines.cluster.wire import (
    AnswerParcel,
    Done,
    Failure,
    RequestParcel,
    SampledParcel,
    SampleParcel,
    ScoredParcel,
    ScoreParcel,
    Work,
    pack_scores,
    unpack_sample,
    unpack_score,
)
from haps_search.errors import CandidateError, PoolError
from haps_search.lora.adapter import learnt_tensors
from haps_search.types import Scores

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


def outcomes(candidate: Candidate, work: Work) -> tuple[AnswerParcel | Failure, ...]:
    """Answer all parcels of a lease, those of a kind in one batch; where that fails, each alone, to find out whose
    fault it was."""
    try:
        return tuple(_answers(candidate, work.parcels))
    except Exception as error:
        if "CUDA error" in str(error):
            raise  # the device's context is broken: only a new process can go on
        failure = _failure(error)
    if len(work.parcels) == 1:
        return (failure,)
    return tuple(outcomes(candidate, Work(work.lease, (parcel,)))[0] for parcel in work.parcels)


def _answers(candidate: Candidate, parcels: Sequence[RequestParcel]) -> list[AnswerParcel]:
    sampling = {i: parcel for i, parcel in enumerate(parcels) if isinstance(parcel, SampleParcel)}
    scoring = {i: parcel for i, parcel in enumerate(parcels) if isinstance(parcel, ScoreParcel)}
    found: dict[int, AnswerParcel] = {}
    if sampling:
        found |= zip(sampling, _sampled(candidate, list(sampling.values())), strict=True)
    if scoring:
        found |= zip(scoring, _scored(candidate, list(scoring.values())), strict=True)
    return [found[i] for i in range(len(parcels))]


def _sampled(candidate: Candidate, parcels: Sequence[SampleParcel]) -> list[SampledParcel]:
    drawn = iter(candidate.sample([request for parcel in parcels for request in unpack_sample(parcel)]))
    return [SampledParcel(tuple(islice(drawn, parcel.rows))) for parcel in parcels]


def _scored(candidate: Candidate, parcels: Sequence[ScoreParcel]) -> list[ScoredParcel]:
    requests = [unpack_score(parcel) for parcel in parcels]
    scores = candidate.score([request for some in requests for request in some])
    # Parcels share no tensor, so each tensor's gradient belongs to one of them.
    completions, gradients = iter(scores.completions), iter(scores.gradients)
    return [
        pack_scores(
            Scores(
                tuple(islice(completions, len(some))),
                tuple(islice(gradients, len(learnt_tensors(request.adapter for request in some)))),
            )
        )
        for some in requests
    ]


def _failure(error: Exception) -> Failure:
    if isinstance(error, CandidateError):
        return Failure(error, final=True)
    return Failure(PoolError(f"{type(error).__name__}: {error}"), final=False)
