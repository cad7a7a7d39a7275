"""Parts of the service that need no model: lines that batch, histories, replies, plans."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from made import NumberTask, said
from served import NAMES
from sweeps import DESCRIBED
from typer.testing import CliRunner

from haps_search.candidates.growing_text import GrowingText
from haps_search.config.engines import ClusterProfile
from haps_search.config.load import load_pool, parse_study
from haps_search.config.run import Experiment
from haps_search.errors import CandidateError, ConfigError, EndpointError, Kind, PoolError
from haps_search.search.gated import Gate, gate_of
from haps_search.serving.batching import Line, Ticket
from haps_search.serving.exchange import Asked, Chat, Decided, Routed, extension
from haps_search.serving.hosts import Hears
from haps_search.serving.refusals import Refused, refusal
from haps_search.serving.served_run import ServedRun
from haps_search.serving.server import Listening, key_for
from haps_search.serving.service import Service, with_history
from haps_search.types import Message, Sampled, SampleRequest, Sampling
from haps_search.verbs.plan_serving import plan_serving

USER, SYSTEM, ASSISTANT = (lambda text, role=role: Message(role, text) for role in ("user", "system", "assistant"))


def experiment(**changes: Any) -> Experiment:
    return parse_study({**DESCRIBED, "experiment": {**DESCRIBED["experiment"], **changes}}).experiment


class Gathering:
    """Work that waits at its first batch until it is told to go on, and fails on what is negative."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.goes_on = threading.Event()

    def __call__(self, waiting: Sequence[Ticket[int, int]]) -> list[int]:
        self.batches.append([ticket.item for ticket in waiting])
        assert self.goes_on.wait(60)
        if any(ticket.item < 0 for ticket in waiting):
            raise CandidateError("negative")
        return [10 * ticket.item for ticket in waiting]


async def asked(work: Gathering, items: Sequence[int], most: int = 8, leaving: Sequence[int] = ()) -> list[Any]:
    """All at once while the first is at work; those that leave do so meanwhile."""
    with ThreadPoolExecutor(1) as threads:
        line: Line[int, int] = Line(work, most, threads)
        first = asyncio.create_task(line.ask(items[0]))
        while not work.batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(line.ask(item)) for item in items[1:]]
        await asyncio.sleep(0)
        for place in leaving:
            others[place - 1].cancel()
        work.goes_on.set()
        return await asyncio.gather(first, *others, return_exceptions=True)


def test_who_waits_goes_in_the_next_batch_and_gets_his_own_answer() -> None:
    work = Gathering()
    assert asyncio.run(asked(work, [1, 2, 3, 4, 5], most=3)) == [10, 20, 30, 40, 50]
    assert work.batches == [[1], [2, 3, 4], [5]]


def test_nobody_fails_by_a_neighbour_s_fault() -> None:
    work = Gathering()
    found = asyncio.run(asked(work, [1, 2, -3, 4, 5]))
    assert [str(each) for each in found] == ["10", "20", "negative", "40", "50"]


def test_who_left_before_his_batch_is_in_none() -> None:
    work = Gathering()
    found = asyncio.run(asked(work, [1, 2, 3], leaving=[1]))
    assert isinstance(found[1], asyncio.CancelledError)
    assert work.batches == [[1], [3]]


def test_who_left_holds_no_place_while_a_batch_is_at_work() -> None:
    assert asyncio.run(waiting_after_leaving()) == 0


async def waiting_after_leaving() -> int:
    work = Gathering()
    with ThreadPoolExecutor(1) as threads:
        line: Line[int, int] = Line(work, 8, threads)
        first = asyncio.create_task(line.ask(0))
        while not work.batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(line.ask(item)) for item in range(1, 50)]
        await asyncio.sleep(0)
        for other in others:
            other.cancel()
        await asyncio.wait(others)
        waiting = len(line._waiting)
        work.goes_on.set()
        await first
    return waiting


ENDPOINT = EndpointError("candidate far: http://10.0.0.7/v1: you said MY QUESTION; it does not take the key in FAR_KEY")


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        (Kind.PERMANENT, 401, 502),
        (Kind.PERMANENT, 404, 502),
        (Kind.PERMANENT, 429, 502),
        (Kind.PERMANENT, 400, 400),
        (Kind.TRANSIENT, 503, 503),
        (Kind.TRANSIENT, None, 503),
    ],
)
def test_a_client_hears_nothing_of_who_answers_elsewhere(
    kind: Kind, status: int | None, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    error = EndpointError(*ENDPOINT.args).of_kind(kind)
    error.status = status
    refused = refusal(pickle.loads(pickle.dumps(error)))
    assert refused.status == told
    for text in (str(refused), caplog.text):
        assert not any(word in text for word in ("10.0.0.7", "FAR_KEY", "QUESTION"))
    assert str(status) in caplog.text


def test_a_text_grows_by_whole_characters_and_ends_as_it_is_decoded_at_once() -> None:
    """Of a tokenizer whose tokens are bytes, and which eats a space at the beginning as sentencepiece does."""

    class Bytes:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return bytes(ids).decode(errors="replace").removeprefix(" ")

    whole = " a b äß漢 c🙂 d"
    growing, seen = GrowingText(Bytes()), [""]  # type: ignore[arg-type]
    for token in whole.encode():
        growing.add(token)
        seen.append(growing.so_far())
    assert seen[-1] == whole.removeprefix(" ")
    assert all(after.startswith(before) for before, after in itertools.pairwise(seen))
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in seen)
    assert len(set(seen)) > 10


def test_history_stands_before_the_turn_under_one_system_text() -> None:
    turn = (SYSTEM("the task's"), USER("prompt"))
    assert with_history((), turn) == turn
    talk = (SYSTEM("mine"), USER("a"), ASSISTANT("b"))
    assert with_history(talk, turn) == (SYSTEM("the task's\n\nmine"), USER("a"), ASSISTANT("b"), USER("prompt"))
    assert with_history(talk[1:], (USER("prompt"),)) == (USER("a"), ASSISTANT("b"), USER("prompt"))


class Two:
    """A router that gives both roles away, and candidates that say their names and what they heard."""

    def __init__(self, name: str = "") -> None:
        self.name, self.heard = name, list[SampleRequest]()

    async def decide(self, asked: Asked) -> Routed:
        return Routed(Decided(NAMES, ({}, {}), 0.5), {"sorter": "packed"})

    async def sample(self, request: SampleRequest, hears: Hears | None = None) -> Sampled:
        assert hears is None, "nobody knows yet whether this is the answer"
        self.heard.append(request)
        return said(f"{self.name} said", tokens=4)


def test_roles_play_through_and_the_last_text_is_the_answer() -> None:
    candidates = {name: Two(name) for name in NAMES}
    priced = [{**c, "price": {"read": 1e6, "written": 0}} for c in DESCRIBED["experiment"]["candidates"]]
    service = Service(experiment(candidates=priced), NumberTask(roles=2), Two(), candidates)
    chat = Chat("haps", (USER("before"), USER("7")), Sampling(4, 0.0))
    pieces: list[str] = []

    async def replied() -> Any:
        return await service.reply(chat, await service.decide(chat), pieces.append)

    reply = asyncio.run(replied())
    assert [s.text for s in reply.spoken] == ["adder said", "sorter said"]
    assert (reply.text, pieces) == ("sorter said", ["sorter said"])
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost, reply.finish) == (6, 8, 6.0, "length")
    (first,), (second,) = candidates["adder"].heard, candidates["sorter"].heard
    assert first.messages == (USER("before"), USER("7"))
    assert (first.adapter, second.adapter) == (None, "packed")
    assert second.messages[-1] == ASSISTANT("adder said")
    turns = extension(Decided(NAMES), service.seats(chat), reply)["turns"]
    assert turns[0] == {"role": "role0", "candidate": "adder", "text": "adder said"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CandidateError("template"), 400, None),
        (CandidateError("busy").of_kind(Kind.TRANSIENT), 503, "unavailable"),
        (PoolError("lost"), 503, "unavailable"),
        (TimeoutError(), 503, "timeout"),
        (Refused(429, "full", None, "queue_full", 2), 429, "queue_full"),
    ],
)
def test_errors_become_statuses(error: Exception, status: int, code: str | None) -> None:
    found = refusal(error)
    assert (found.status, found.code) == (status, code)
    assert ("Retry-After" in found.headers) == (status in (429, 503))


def test_a_prompt_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    prompt = "a prompt of somebody's"
    with pytest.raises(RuntimeError) as raised:
        raise RuntimeError(prompt)
    assert "prompt of" not in refusal(raised.value).message
    assert "RuntimeError" in caplog.text
    assert prompt not in caplog.text


def test_a_gate_takes_over_below_its_confidence_only() -> None:
    gate = Gate(0.5, "b")
    assert [gate.opens(("a",), p) for p in (0.49, 0.5)] == [True, False]
    assert not gate.opens(("b",), 0.1)
    assert gate.instead(("a", "c")) == ("b", "b")
    assert gate_of(None, None) is None
    for given, lacks in (((0.5, None), "--fallback"), ((None, "b"), "--min-confidence")):
        with pytest.raises(ConfigError, match=f"needs {lacks} too"):
            gate_of(*given)


def test_elsewhere_than_on_loopback_there_has_to_be_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAPS_API_KEY", raising=False)
    assert [key_for(Listening(host)) for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3
    for host in ("0.0.0.0", "192.168.1.2", "example.org"):
        with pytest.raises(ConfigError, match="set HAPS_API_KEY"):
            key_for(Listening(host))
    monkeypatch.setenv("HAPS_API_KEY", "k")
    assert key_for(Listening("0.0.0.0")) == "k"


def test_what_cannot_be_served_is_said_with_the_way_out(tmp_path: Path) -> None:
    own = experiment()
    with pytest.raises(ConfigError, match="--fallback: got nobody"):
        ServedRun.of(tmp_path, own, gate=Gate(0.5, "nobody"))
    with pytest.raises(ConfigError, match="adapters fit its own candidates"):
        ServedRun.of(tmp_path, own, own.candidates)
    with pytest.raises(ConfigError, match="--cost-weight: needs a router of a replay"):
        ServedRun.of(tmp_path, own, cost_weight=0.5)
    table = [{"name": name, "source": {"type": "table"}} for name in NAMES]
    replay = experiment(
        task={"type": "replay", "table": {"file": "t.jsonl"}}, candidates=table,
        routing={"low_level": {"type": "none"}, "backbone": {"type": "features"}}, learning={"signal": "outcomes"},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"--candidates FILE.*haps route"):
        ServedRun.of(tmp_path, replay)
    with pytest.raises(ConfigError, match="chooses among adder, sorter, got adder: name the same"):
        ServedRun.of(tmp_path, replay, own.candidates[:1])
    assert ServedRun.of(tmp_path, replay, own.candidates).hosted == own.candidates


def test_a_pool_is_read_from_a_study_or_alone(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    for indent in ("", "  "):
        head = "experiment:\n" if indent else ""
        lines = "".join(f"{indent}- {{name: {n}, source: {{type: zoo, name: {n}}}}}\n" for n in NAMES)
        file.write_text(f"{head}{indent}candidates:\n{lines}")
        assert [c.name for c in load_pool(file)] == list(NAMES)
    file.write_text("candidates: [{name: a}]")
    with pytest.raises(ConfigError, match="source"):
        load_pool(file)


def test_the_plan_has_the_replicas_and_no_optimiser() -> None:
    profile = ClusterProfile.model_validate(
        {"name": "two", "replicas": {"adder": 2}, "nodes": [{"cpus": 8, "memory_gb": 64}]}
    )
    made = plan_serving(experiment(), profile)
    assert sorted(row.seat.who.partition(" (")[0] for row in made.rows)[-1] == "sorter"
    assert [row.need.optimiser for row in made.rows] == [0] * 4
    assert made.problems == ()
    small = profile.model_copy(update={"nodes": (profile.nodes[0].model_copy(update={"cpus": 1.0}),)})
    assert plan_serving(experiment(), small).problems


def test_serve_s_help_names_the_key() -> None:
    from haps_search.cli.main import app

    assert "HAPS_API_KEY" in CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
