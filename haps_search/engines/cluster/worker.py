"""A pool worker: hosts one frozen candidate and answers what the broker leases to it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import ray

from haps_search.candidates.candidate import Candidate
from haps_search.config.candidates import CandidateConfig, EndpointSource
from haps_search.engines.cluster.failures import unwrapped
from haps_search.engines.cluster.protocol import Answered, Done, Failure, Lost, Result, Work
from haps_search.engines.cluster.store import LOST, get_requests, put_answer
from haps_search.engines.cluster.wire import (
    RequestParcel,
    SampledParcel,
    SampleParcel,
    ScoredParcel,
    ScoreParcel,
    pack_scores,
    unpack_sample,
    unpack_score,
)
from haps_search.engines.lean_imports import import_lean
from haps_search.errors import CandidateError, Kind, PoolError
from haps_search.faults.kinds import kind_of
from haps_search.faults.policy import Again, Failures, Over, Policy, first_line, persistently
from haps_search.types import Scores

_log = logging.getLogger(__name__)
CALL_S = 60.0
"""How long a call of the broker may take; its polls end long before."""
AWAY = Policy(within_s=1800.0, first_s=1.0, longest_s=10.0)
"""The network broke, or the node has no room for an answer in memory, or none to spill it."""


def host(settings: Mapping[str, Any]) -> None:
    """The train loop of the pool's Ray Train run: rank i hosts the candidate of seat i.

    It never reports to Train: that is a barrier over ranks, and candidates do not know one another.
    """
    from ray.train import get_context

    rank = get_context().get_world_rank()
    config = CandidateConfig.model_validate(settings["seats"][rank])
    load = _loader(config, settings)
    from haps_search.engines.cluster.meters import Metered

    try:
        broker: Any = ray.get_actor(settings["broker"], namespace=settings["namespace"])
    except ValueError:
        return  # the session ended while this process was starting; an error would only start it again
    worker, node = f"{config.name}/{settings['crew']}.{rank}", ray.get_runtime_context().get_node_id()
    start = ray.get(broker.arrive.remote(worker, config.name, node), timeout=CALL_S)
    if not start:
        return
    try:
        candidate = loaded(load, broker, worker, node, Policy(**settings["retries"]))
    except CandidateError as error:
        # Here it would fail again, so nobody should wait for a restart: the driver looks for another node.
        stand_aside(broker, worker, config.name, node, error)
        return
    serve(broker, worker, Metered(candidate, worker), node, start)


def _loader(config: CandidateConfig, settings: Mapping[str, Any]) -> Callable[[], Candidate]:
    """What loads the candidate. Only where its weights are here is anything imported for that."""
    if isinstance(config.source, EndpointSource):
        from haps_search.candidates.endpoint import EndpointCandidate

        # What is under way then has its own time to come, before the broker gives the batch to another.
        limit_s = 0.9 * (settings["deadline_s"] - config.source.timeout_s)
        return partial(EndpointCandidate.load, config, settings["workers"][config.name], limit_s)
    import_lean(config)
    from haps_search.candidates.frozen_lm import FrozenLM
    from haps_search.engines.torch_process import prepare_torch

    prepare_torch(settings["threads"], settings["gpus"])
    return partial(FrozenLM.load, config)


def loaded(load: Callable[[], Candidate], broker: Any, worker: str, node: str, policy: Policy) -> Candidate:
    """Load, again and again where that may pass; the driver is told, and tries it elsewhere meanwhile.

    Raises:
        CandidateError: it does not pass, or has not for as long as the policy waits.
    """
    failures = Failures(policy)
    while True:
        try:
            return load()
        except CandidateError as error:
            follows = failures.follow(error.kind)
            if isinstance(follows, Over):
                raise
            _log.warning("%s: %s; tried again in %.0f s", worker, error, follows.pause_s)
            trouble = broker.troubled.remote(worker, worker.partition("/")[0], node, error)
        persistently(partial(ray.get, trouble, timeout=CALL_S), "the broker", AWAY)
        time.sleep(follows.pause_s)


def stand_aside(broker: Any, worker: str, candidate: str, node: str, error: CandidateError) -> None:
    """Hold a seat that no other is to get, until the pool ends."""

    def asked() -> bool:
        return bool(ray.get(broker.refuse.remote(worker, candidate, node, error), timeout=CALL_S))

    while not persistently(asked, "the broker", AWAY):
        continue


def serve(broker: Any, worker: str, candidate: Candidate, node: str, start: int) -> None:
    """Answer leases until the pool ends or this worker is replaced. `start` is what `arrive` gave it."""
    session: int | None = None
    done: Done | None = None
    lost, failures = "", Failures(AWAY)
    exchange = broker.exchange.options(name=f"{worker}: exchange")  # what Ray's dashboard tells candidates apart by
    while True:
        try:
            if session is None:
                what = worker, candidate.table, os.getpid(), node, start, lost
                session, done = ray.get(broker.register.remote(*what), timeout=CALL_S), None
            asked = exchange.remote(worker, session, done, candidate.room)
            work: Work | None = ray.get(asked, timeout=CALL_S)
            done = None if work is None else Done(work.lease, results(candidate, work))
            failures.forget()
        except ray.exceptions.RayError as error:
            follows = failures.follow(kind_of(error)) if kind_of(error) is Kind.TRANSIENT else Over(final=True)
            if isinstance(follows, Again):
                # Not the broker's end. What was handed in may have arrived or not, so this worker begins again, and
                # what it held goes to the next lease.
                lost = f"its answer did not get through ({first_line(error)})"
                _log.warning("%s begins again: %s", worker, lost)
                time.sleep(follows.pause_s)
            elif not isinstance(unwrapped(error), PoolError):
                raise
            elif session is None:
                return  # replaced, or a broker that ended the pool or is gone itself: nobody is left to serve
            # Where it was taken for hung, it lives after all: it registers again.
            session = None


def results(candidate: Candidate, work: Work) -> tuple[Result, ...]:
    """Fetch what a lease refers to, and answer all of it that is there."""
    parcels = _fetched(work.payloads)
    there = [parcel for parcel in parcels if not isinstance(parcel, Lost)]
    answers = iter(outcomes(candidate, there) if there else ())
    return tuple(parcel if isinstance(parcel, Lost) else next(answers) for parcel in parcels)


def _fetched(payloads: Sequence[Any]) -> Sequence[RequestParcel | Lost]:
    """All at once; where one is lost each alone."""
    try:
        return get_requests(payloads)
    except LOST as error:
        if len(payloads) == 1:
            return (Lost(f"its request was lost ({first_line(error)})"),)
    return [_fetched((payload,))[0] for payload in payloads]


def outcomes(candidate: Candidate, parcels: Sequence[RequestParcel]) -> tuple[Answered | Failure, ...]:
    """Answer all parcels in one batch; where that fails, each alone, to find out whose fault it was; not where an
    endpoint does not answer now, and would let each wait as long again."""
    try:
        answers = _answers(candidate, parcels)
    except Exception as error:
        if "CUDA error" in str(error):
            raise  # the device's context is broken: only a new process can go on
        failure = _failure(error)
        if isinstance(error, CandidateError) and error.kind is Kind.TRANSIENT:
            return (failure,) * len(parcels)
    else:
        return tuple(Answered(put_answer(answer), answer.known) for answer in answers)
    if len(parcels) == 1:
        return (failure,)
    return tuple(outcomes(candidate, (parcel,))[0] for parcel in parcels)


def _answers(candidate: Candidate, parcels: Sequence[RequestParcel]) -> Sequence[SampledParcel | ScoredParcel]:
    """All of a lease are of one kind."""
    sampling = [parcel for parcel in parcels if isinstance(parcel, SampleParcel)]
    scoring = [parcel for parcel in parcels if isinstance(parcel, ScoreParcel)]
    return _sampled(candidate, sampling) if sampling else _scored(candidate, scoring)


def _sampled(candidate: Candidate, parcels: Sequence[SampleParcel]) -> list[SampledParcel]:
    drawn = iter(candidate.sample([request for parcel in parcels for request in unpack_sample(parcel)]))
    return [SampledParcel(tuple(islice(drawn, parcel.rows))) for parcel in parcels]


def _scored(candidate: Candidate, parcels: Sequence[ScoreParcel]) -> list[ScoredParcel]:
    from haps_search.lora.adapter import learnt_tensors  # torch, which trivial candidates do not need

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
    if isinstance(error, CandidateError) and error.kind is Kind.PERMANENT:
        return Failure(error, final=True)
    return Failure(PoolError(f"{type(error).__name__}: {error}").of_kind(kind_of(error)), final=False)
