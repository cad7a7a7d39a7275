"""Whose fault it was: what a run breaks is written into its folder, what the machines break is raised. No Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made import layout
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OwnerDiedError,
    RayTaskError,
)
from sweeps import a_study

from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster import trial, worker
from haps_search.engines.cluster.failures import answer, unwrapped
from haps_search.engines.cluster.protocol import Answered, Failure, Lost, Result, Work
from haps_search.engines.cluster.wire import (
    RequestParcel,
    SampledParcel,
    ScoredParcel,
    pack_sample,
    pack_score,
    unpack_scores,
)
from haps_search.engines.cluster.worker import results
from haps_search.errors import CandidateError, ConfigError, Diverged, HapsError, Interrupted, PoolError, StaleUpdate
from haps_search.lora.adapter import learnt_tensors
from haps_search.records.run_folder import ERROR_FILE
from haps_search.sweep.events import written_ending
from haps_search.types import (
    Adapter,
    GivenCompletion,
    Message,
    ModuleTable,
    Sampled,
    SampleRequest,
    Sampling,
    Score,
    ScoreRequest,
    Scores,
)

Run = Callable[[BaseException | None], None]


@pytest.fixture
def run_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Tune's trainable over a run that ends with this error."""

    def run(error: BaseException | None) -> None:
        async def ending(*_: Any) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(trial, "_run", ending)
        monkeypatch.setattr(trial.ray, "get_actor", lambda name, namespace: (name, namespace))
        trial.run_trial(config_of(tmp_path))

    return run


def config_of(folder: Path) -> dict[str, Any]:
    return {
        "profile": ClusterProfile(name="test").model_dump(mode="json"),
        "experiment": a_study().experiment.model_dump(mode="json"),
        "folder": str(folder),
        "namespace": "haps-test",
    }


@pytest.mark.parametrize(
    "error", [Diverged("loss is nan"), CandidateError("the prompt is too long"), ConfigError(["one", "two"], "a.yaml")]
)
def test_what_the_run_broke_is_written_down_and_ends_the_trial(
    run_that_raises: Run, tmp_path: Path, error: HapsError, capfd: pytest.CaptureFixture[str]
) -> None:
    error.__cause__ = RuntimeError("this reward has a bug")
    with capfd.disabled():  # the process's own output, which is what the attempt keeps
        run_that_raises(error)
    assert json.loads((tmp_path / ERROR_FILE).read_text()) == {
        "kind": type(error).__name__,
        "message": str(error),
    }
    end = written_ending(3, tmp_path)
    assert end is not None
    assert (end.number, end.state, end.error) == (3, "failed", f"{type(error).__name__}: {error}")
    assert end.log[-1] == "RuntimeError: this reward has a bug"


@pytest.mark.parametrize("error", [PoolError("a worker was lost"), ValueError("a bug")])
def test_what_the_machines_or_a_bug_broke_is_raised_and_the_run_can_go_on(
    run_that_raises: Run, tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)):
        run_that_raises(error)
    assert written_ending(3, tmp_path) is None


def test_a_run_that_ends_well_leaves_no_error(run_that_raises: Run, tmp_path: Path) -> None:
    run_that_raises(None)
    assert written_ending(3, tmp_path) is None


def test_a_broker_that_is_gone_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str, namespace: str) -> None:
        raise ValueError(f"Failed to look up actor with name '{name}'")

    monkeypatch.setattr(trial.ray, "get_actor", gone)
    with pytest.raises(PoolError, match="the broker of haps-test is gone"):
        trial.run_trial(config_of(tmp_path))
    assert written_ending(3, tmp_path) is None


def test_our_metrics_are_told_from_tunes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(trial.tune, "report", told.append)
    trial._report(4, {"reward": 0.5, "validation_share/adder": 0.25})
    assert told == [{"step": 4, "metrics": {"reward": 0.5, "validation_share/adder": 0.25}}]


def test_an_error_of_ours_crosses_as_itself() -> None:
    error = StaleUpdate("version 7")
    assert unwrapped(RayTaskError("update", "trace", error)) is error


def test_a_lost_actor_is_the_pools_error() -> None:
    found = unwrapped(ActorDiedError())
    assert isinstance(found, PoolError)
    assert "an actor was lost" in str(found)


def test_other_errors_are_left_alone() -> None:
    for error in (RayTaskError("update", "trace", ValueError("a bug")), ObjectLostError("ff", None, "")):
        assert unwrapped(error) is error


def test_awaiting_an_actor_raises_what_it_raised() -> None:
    async def failing() -> None:
        raise RayTaskError("submit", "trace", CandidateError("too long"))

    with pytest.raises(CandidateError, match="too long"):
        asyncio.run(answer(failing(), 5.0))


def test_an_actor_that_says_nothing_is_the_machines_fault() -> None:
    with pytest.raises(PoolError, match=r"has not answered for 0\.01 s"):
        asyncio.run(answer(asyncio.sleep(5), 0.01))


# A worker's answers.


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads stand for themselves; errors for objects that are lost."""

    def get(payloads: Sequence[Any]) -> list[RequestParcel]:
        for payload in payloads:
            if isinstance(payload, Exception):
                raise payload
        return list(payloads)

    monkeypatch.setattr(worker, "get_requests", get)
    monkeypatch.setattr(worker, "put_answer", lambda parcel: parcel)


class Picky:
    """Refuses texts that say so, and breaks on others."""

    table = ModuleTable("picky", 1, ())
    room = 64

    def __init__(self) -> None:
        self.batches: list[int] = []

    def sample(self, requests: list[SampleRequest]) -> list[Sampled]:
        self.batches.append(len(requests))
        said = [r.messages[0].content for r in requests]
        if "too long" in said:
            raise CandidateError("picky: the prompt is too long")
        if "break" in said:
            raise RuntimeError("out of memory")
        return [Sampled(text.upper(), (1,), (-1.0,), 1, 1) for text in said]

    def score(self, requests: list[ScoreRequest]) -> Scores:
        """Every gradient is the tensor itself, times how often its request's completions weigh."""
        self.batches.append(len(requests))
        scores = tuple(tuple(Score((-float(i),)) for i, _ in enumerate(r.completions)) for r in requests)
        weights = {id(r.adapter.values): sum(c.weight for c in r.completions) for r in requests if r.adapter}
        return Scores(scores, tuple(weights[id(t)] * t for t in learnt_tensors(r.adapter for r in requests)))


def work(*parcels: list[str]) -> Work:
    packed = [pack_sample([SampleRequest((Message("user", t),), Sampling(2)) for t in texts]) for texts in parcels]
    return Work(5, "sample", tuple(packed))


def drawn(result: Result) -> list[str]:
    assert isinstance(result, Answered)
    assert isinstance(result.payload, SampledParcel)
    return [sampled.text for sampled in result.payload.samples]


@pytest.mark.usefixtures("at_hand")
def test_a_lease_is_one_batch_and_each_ticket_gets_its_own() -> None:
    candidate = Picky()
    assert [drawn(o) for o in results(candidate, work(["a", "b"], ["c"], ["d"]))] == [["A", "B"], ["C"], ["D"]]
    assert candidate.batches == [4]


def to_score(*weights: float) -> ScoreRequest:
    completions = tuple(GivenCompletion((Message("user", "t"),), (1,), weight) for weight in weights)
    return ScoreRequest(completions, Adapter(layout(), torch.arange(float(layout().size))))


@pytest.mark.usefixtures("at_hand")
def test_gradients_of_a_batch_go_back_to_their_tickets() -> None:
    candidate = Picky()
    payloads = pack_score([to_score(1.0, 2.0), to_score(4.0)]), pack_score([to_score(8.0)])
    found = results(candidate, Work(5, "score", payloads))
    assert candidate.batches == [3]
    for result, counts, factors in zip(found, ([2, 1], [1]), ([3.0, 4.0], [8.0]), strict=True):
        assert isinstance(result, Answered)
        assert isinstance(result.payload, ScoredParcel)
        scores = unpack_scores(result.payload)
        assert [len(row) for row in scores.completions] == counts
        assert [float(g[1]) for g in scores.gradients if g is not None] == factors


@pytest.mark.usefixtures("at_hand")
def test_a_ticket_that_fails_does_not_fail_its_batch_mates() -> None:
    good, refused, broke, also_good = results(Picky(), work(["a"], ["b", "too long"], ["break"], ["c"]))
    assert (drawn(good), drawn(also_good)) == (["A"], ["C"])
    assert isinstance(refused, Failure)
    assert refused.final
    assert isinstance(refused.error, CandidateError)
    assert isinstance(broke, Failure)
    assert not broke.final
    assert str(broke.error) == "RuntimeError: out of memory"


@pytest.mark.usefixtures("at_hand")
def test_a_lost_request_is_told_and_its_batch_mates_are_answered_together() -> None:
    candidate = Picky()
    first, second = work(["a"], ["b"]).payloads
    given = Work(5, "sample", (first, ObjectLostError("ff", None, ""), second, OwnerDiedError("ff", None, "")))
    found = results(candidate, given)
    assert [drawn(found[0]), drawn(found[2])] == [["A"], ["B"]]
    assert candidate.batches == [2]
    assert all(isinstance(result, Lost) and "its request was lost" in result.reason for result in found[1::2])


class Broker:
    """Stands for a broker's handle: hands out one lease, does not get its answer once, and then ends."""

    def __init__(self, lost: Exception) -> None:
        self.calls: list[tuple[str, object, object]] = []
        self._lost = [lost]
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        call = SimpleNamespace(remote=lambda *given: partial(self._called, name, *given))
        call.options = lambda **options: call
        return call

    def _called(self, name: str, *given: Any) -> Any:
        if name == "register":
            if self._ended:
                raise RayTaskError("register", "trace", PoolError("the sweep is over"))
            self.calls.append((name, None, None))
            return len(self.calls)
        _, session, done, _ = given
        self.calls.append((name, session, None if done is None else done.lease))
        if done is None:
            return work(["a"])
        if self._lost:
            raise self._lost.pop()
        self._ended = True
        raise RayTaskError("exchange", "trace", PoolError("the sweep is over"))


@pytest.mark.parametrize(
    "lost",
    [ActorUnavailableError("no answer", None), GetTimeoutError(), ObjectStoreFullError("full"), OutOfDiskError()],
    ids=repr,
)
@pytest.mark.usefixtures("at_hand")
def test_a_worker_whose_answer_did_not_get_through_begins_again_and_lives(
    lost: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(worker.ray, "get", lambda call, timeout: call())
    broker, candidate = Broker(lost), Picky()
    worker.serve(broker, "picky/0", candidate, "node", 1)
    once = [("exchange", None), ("exchange", 5)]
    assert [(name, lease) for name, _, lease in broker.calls] == [("register", None), *once, ("register", None), *once]
    sessions = [session for name, session, _ in broker.calls if name == "exchange"]
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
    assert candidate.batches == [1, 1], "what was lost is done again"


def test_a_worker_that_cannot_load_holds_its_seat_while_connections_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(worker.ray, "get", lambda call, timeout: call())
    asked: list[tuple[Any, ...]] = []

    def refuse(*given: Any) -> bool:
        asked.append(given)
        if len(asked) == 2:
            raise ActorUnavailableError("no answer", None)
        return len(asked) == 3  # a poll that ended before the pool did, a broken connection, and the pool's end

    error = CandidateError("no such folder")
    broker: Any = SimpleNamespace(refuse=SimpleNamespace(remote=lambda *given: partial(refuse, *given)))
    worker.stand_aside(broker, "picky/0", "picky", "node", error)
    assert asked == [("picky/0", "picky", "node", error)] * 3


def test_a_run_that_was_asked_to_leave_is_neither_raised_nor_written_down(run_that_raises: Run, tmp_path: Path) -> None:
    run_that_raises(Interrupted("asked to leave, saved at step 3"))
    assert written_ending(3, tmp_path) is None
