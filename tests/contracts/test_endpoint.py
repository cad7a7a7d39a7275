"""A candidate behind an OpenAI-compatible address, over a real socket: what is asked, and whatever comes back."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from endpoints import Reply, Stub, completion, configured, error, serving
from patience import wait_for

from haps_search.candidates import endpoint as module
from haps_search.candidates.candidate import Elsewhere, drawn
from haps_search.candidates.endpoint import EndpointCandidate
from haps_search.errors import CandidateError, Kind
from haps_search.faults.policy import Policy
from haps_search.types import GivenCompletion, Message, Sampled, SampleRequest, Sampling, ScoreRequest

KEY = "sk-sentinel-0123456789"
Ask = Callable[..., EndpointCandidate]


@pytest.fixture
def candidate() -> Iterator[Ask]:
    """Made for a stub; its pauses are short, and it is closed at the end."""
    made: list[EndpointCandidate] = []

    def make(stub: Stub, limit_s: float = float("inf"), **changes: Any) -> EndpointCandidate:
        found = EndpointCandidate.load(configured(stub.url, **changes), limit_s=limit_s)
        found._policy = Policy(within_s=found._source.retry_s, first_s=0.01, longest_s=0.02)
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()


@pytest.fixture
def stub() -> Iterator[Callable[..., Stub]]:
    open_: list[Any] = []

    def start(*script: Reply, **how: Any) -> Stub:
        context = serving(Stub(*script, **how))
        open_.append(context)
        return context.__enter__()

    yield start
    for context in open_:
        context.__exit__(None, None, None)


def asked(text: str = "hi", seed: int = 3, **sampling: Any) -> SampleRequest:
    return SampleRequest((Message("user", text),), Sampling(16, seed=seed, **sampling))


def one(found: EndpointCandidate, request: SampleRequest | None = None) -> Sampled:
    (sampled,) = found.sample([request or asked()])
    return sampled


def echo(body: Any) -> Reply:
    return completion(body["messages"][-1]["content"].upper())


def test_the_request_says_roles_and_sampling(stub: Any, candidate: Ask) -> None:
    server = stub()
    messages = (Message("system", "be brief"), Message("user", "q"), Message("assistant", "a"), Message("user", "r"))
    found = candidate(server, stop=["\n"], extra_body={"top_k": 7})
    found.sample([SampleRequest(messages, Sampling(9, 0.5, 2**40 + 5, 0, 0.75))])
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies == [
        {
            "model": "stub",
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.75,
            "seed": 5,
            "stop": ["\n"],
            "top_k": 7,
        }
    ]


def test_what_a_server_refuses_is_left_out_and_system_texts_merged(stub: Any, candidate: Ask) -> None:
    server = stub()
    how = {"max_tokens_as": "max_completion_tokens", "leave_out": ["temperature", "top_p", "seed"]}
    found = candidate(server, chat={"type": "template", "system": "merge"}, **how)
    found.sample([SampleRequest((Message("system", "be brief"), Message("user", "q")), Sampling(9))])
    assert server.bodies == [
        {"model": "stub", "messages": [{"role": "user", "content": "be brief\n\nq"}], "max_completion_tokens": 9}
    ]


def test_an_answer_has_its_text_and_the_servers_own_counts_and_no_tokens(stub: Any, candidate: Ask) -> None:
    assert one(candidate(stub(completion("yes", 11, 3)))) == Sampled("yes", (), (), 11, 3)


def test_half_a_character_of_a_text_cut_off_is_an_answer_that_a_file_can_hold(stub: Any, candidate: Ask) -> None:
    found = one(candidate(stub(completion("cut \ud83d"))))
    assert found.text == "cut \N{REPLACEMENT CHARACTER}"


def test_what_was_thought_counts_where_only_the_total_has_it(stub: Any, candidate: Ask) -> None:
    body = json.loads(completion("yes", 20, 198).body)
    body["usage"]["total_tokens"] = 623
    assert one(candidate(stub(Reply(json.dumps(body).encode())))).completion_tokens == 603


def test_who_leaves_leaves_no_error_for_the_log(stub: Any, candidate: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio says those that nobody looked at with their text, and a server's may hold the question."""
    go = threading.Event()
    server = stub(Reply(error(400, "my secret").body, 400, until=go), usual=echo)
    found = candidate(server)

    async def left() -> None:
        waiting = asyncio.create_task(found.sampled([asked()]))
        while not server.bodies:
            await asyncio.sleep(0.001)
        waiting.cancel()
        go.set()

    asyncio.run(left())
    wait_for(lambda: not asyncio.all_tasks(found._loop), "the request has no end")
    assert one(found, asked("on")).text == "ON"
    gc.collect()
    assert "my secret" not in caplog.text


def test_answers_come_in_the_order_of_their_requests(stub: Any, candidate: Ask) -> None:
    found = candidate(stub(usual=echo), concurrency=4)
    assert [s.text for s in found.sample([asked(f"t{i}") for i in range(20)])] == [f"T{i}" for i in range(20)]
    assert found.sample([]) == []


def test_whoever_asks_on_an_event_loop_goes_on_meanwhile(stub: Any, candidate: Ask) -> None:
    go = threading.Event()
    server = stub(usual=lambda body: Reply(completion("late").body, until=go))
    found = candidate(server)
    assert isinstance(found, Elsewhere)

    async def both() -> list[Sampled]:
        waiting = asyncio.create_task(drawn(found, [asked()]))
        while not server.bodies:
            await asyncio.sleep(0.001)
        go.set()  # by the same loop that waits
        return await waiting

    assert [s.text for s in asyncio.run(both())] == ["late"]


def test_no_more_requests_at_a_time_than_said(stub: Any, candidate: Ask) -> None:
    server = stub(usual=echo)
    candidate(server, concurrency=3).sample([asked(f"{i}") for i in range(30)])
    assert 1 <= server.at_a_time <= 3
    assert len(server.bodies) == 30


def test_workers_share_what_an_endpoint_allows() -> None:
    source = configured("http://x/v1", concurrency=8, requests_per_minute=60.0).source
    share = source.shared_by(3)  # type: ignore[union-attr]
    assert (share.concurrency, share.requests_per_minute) == (2, 20.0)
    assert source.shared_by(100).concurrency == 1  # type: ignore[union-attr]


TRANSIENT = [
    error(408), error(409), error(429), error(500), error(502), error(503),
    Reply(completion().body, cut=20),
]  # fmt: skip


@pytest.mark.parametrize("reply", TRANSIENT, ids=lambda r: f"{r.status}{'' if r.cut is None else '-cut'}")
def test_what_passes_is_asked_again(stub: Any, candidate: Ask, reply: Reply) -> None:
    server = stub(reply, reply, completion("at last"))
    assert one(candidate(server)).text == "at last"
    assert len(server.bodies) == 3
    assert server.bodies[0] == server.bodies[2]


def test_who_never_gets_through_says_so_and_that_it_may_pass(stub: Any, candidate: Ask) -> None:
    server = stub(usual=lambda body: error(503, "overloaded"))
    with pytest.raises(CandidateError, match=r"candidate far: .*503.*overloaded") as raised:
        one(candidate(server, retry_s=0.05))
    assert raised.value.kind is Kind.TRANSIENT
    assert len(server.bodies) > 1


def test_a_server_that_wants_a_pause_gets_it_from_all(stub: Any, candidate: Ask) -> None:
    server = stub(error(429, Retry_After="0.5"), usual=echo)
    found = candidate(server, concurrency=1)
    found.sample([asked("a"), asked("b")])
    assert len(server.bodies) == 3
    assert server.times[1] - server.times[0] >= 0.5  # the other waits as well, though it was told nothing


def test_a_pause_beyond_all_patience_is_not_waited_for(stub: Any, candidate: Ask) -> None:
    began = time.monotonic()
    with pytest.raises(CandidateError, match="429") as raised:
        one(candidate(stub(error(429, Retry_After="86400"))))
    assert raised.value.kind is Kind.TRANSIENT
    assert time.monotonic() - began < 3600


def test_answers_that_take_too_long_are_given_up_and_asked_for_again(stub: Any, candidate: Ask) -> None:
    never = threading.Event()
    server = stub(Reply(completion().body, until=never), usual=lambda body: completion("quick"))
    assert one(candidate(server, timeout_s=0.3)).text == "quick"
    server = stub(usual=lambda body: Reply(completion().body, until=never))
    with pytest.raises(CandidateError, match=r"no answer in 0.2 s|timed out"):
        one(candidate(server, timeout_s=0.2, retry_s=0.0))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>busy</html>", kind="text/html"),
        Reply(b"{not json"),
        Reply(b"[]"),
        Reply(b'{"choices": []}'),
        Reply(b'{"choices": null}'),
        Reply(b'{"choices": [{"index": 0}]}'),
        Reply(b'{"choices": [{"message": {"content": 7}}]}'),
    ],
    ids=lambda r: r.body.decode()[:24],
)
def test_what_is_no_completion_is_asked_for_a_few_times(stub: Any, candidate: Ask, reply: Reply) -> None:
    server = stub(reply, completion("sense"))
    assert one(candidate(server)).text == "sense"
    server = stub(usual=lambda body: reply)
    with pytest.raises(CandidateError, match="candidate far"):
        one(candidate(server))
    assert len(server.bodies) == Policy().tries


def test_uncounted_tokens_are_refused_where_they_cost_something(stub: Any, candidate: Ask) -> None:
    assert one(candidate(stub(completion("free", usage=False)))) == Sampled("free", (), (), 0, 0)
    with pytest.raises(CandidateError, match="nobody knows what it costs"):
        one(candidate(stub(usual=lambda body: completion("dear", usage=False)), price={"written": 1.0}))


@pytest.mark.parametrize(
    ("reply", "text", "reason"),
    [
        (completion(None, refusal="I can't\nhelp"), "", "refused: I can't help"),
        (completion("I was say", finish="content_filter"), "I was say", "a content filter stopped the answer"),
        (completion(None, finish="content_filter"), "", "a content filter stopped the answer"),
    ],
)
def test_refusals_and_filters_are_values_that_were_paid(
    stub: Any, candidate: Ask, reply: Reply, text: str, reason: str
) -> None:
    assert one(candidate(stub(reply))) == Sampled(text, (), (), 5, 2, refusal=reason)


def test_a_filtered_question_is_a_value_that_cost_nothing(stub: Any, candidate: Ask) -> None:
    server = stub(error(400, "filtered", code="content_filter"))
    assert one(candidate(server)) == Sampled("", (), (), 0, 0, refusal="a content filter stopped the question")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error(400, "too long"), "too long"),
        (error(401, "who?"), "does not take the key in FAR_KEY"),
        (error(404, "nothing here"), "has it a model `stub`"),
        (error(429, "pay first", code="insufficient_quota"), "pay first"),
    ],
)
def test_what_stays_is_said_at_once_with_a_way_out(
    stub: Any, candidate: Ask, monkeypatch: pytest.MonkeyPatch, reply: Reply, said: str
) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    server = stub(usual=lambda body: reply)
    with pytest.raises(CandidateError, match=said) as raised:
        one(candidate(server, api_key_env="FAR_KEY"))
    assert raised.value.kind is Kind.PERMANENT
    assert len(server.bodies) == 1


def test_one_bad_request_stops_what_was_not_sent_and_loses_no_answer(stub: Any, candidate: Ask) -> None:
    server = stub(usual=lambda body: error(400, "no") if body["messages"][0]["content"] == "bad" else echo(body))
    found = candidate(server, concurrency=1)
    good, bad = [asked(f"g{i}") for i in range(4)], asked("bad")
    with pytest.raises(CandidateError, match="400"):
        found.sample([*good[:2], bad, *good[2:]])
    assert len(server.bodies) == 3
    assert [s.text for s in found.sample(good)] == ["G0", "G1", "G2", "G3"]
    assert [b["messages"][0]["content"] for b in server.bodies] == ["g0", "g1", "bad", "g2", "g3"]  # none twice
    assert [s.text for s in found.sample(good[:1])] == ["G0"]
    assert len(server.bodies) == 6  # what was handed out is asked anew


def test_a_batch_without_time_left_fails_and_goes_on_where_it_was(stub: Any, candidate: Ask) -> None:
    go = threading.Event()
    server = stub(usual=lambda b: echo(b) if go.is_set() or b["messages"][0]["content"] == "a" else error(503))
    found = candidate(server, limit_s=0.3, concurrency=1)
    with pytest.raises(CandidateError) as raised:
        found.sample([asked("a"), asked("b"), asked("c")])
    assert raised.value.kind is Kind.TRANSIENT
    go.set()
    found._limit_s = float("inf")
    assert [s.text for s in found.sample([asked("a"), asked("b"), asked("c")])] == ["A", "B", "C"]
    assert [body["messages"][0]["content"] for body in server.bodies].count("a") == 1  # it was paid for


def test_there_is_no_score_and_no_adapter(stub: Any, candidate: Ask) -> None:
    found = candidate(stub())
    given = GivenCompletion(asked().messages, "x")
    assert found.score([ScoreRequest((given,))]).completions == ((None,),)
    with pytest.raises(CandidateError, match="no likelihoods and no gradients"):
        found.score([ScoreRequest((given,), every=True)])
    assert found.table.modules == ()


def test_a_missing_variable_or_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    config = configured("http://127.0.0.1:1/v1", api_key_env="FAR_KEY")
    with pytest.raises(CandidateError, match=r"FAR_KEY .* is not set here"):
        module.require([config])
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(CandidateError, match=r"pip install 'haps-search\[endpoints\]'"):
        module.require([config])


def test_only_the_named_key_goes_to_a_server(stub: Any, candidate: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    server = stub()
    one(candidate(server))
    assert KEY not in str(server.headers)
    monkeypatch.setenv("FAR_KEY", "sk-other")
    one(candidate(server, api_key_env="FAR_KEY"))
    assert server.headers[1]["authorization"] == "Bearer sk-other"


def test_the_key_is_in_no_log_and_no_error(
    stub: Any, candidate: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    server = stub(
        error(500, f"you sent Bearer {KEY}"),
        usual=lambda body: error(401, f"Incorrect API key provided: {KEY}. authorization: Bearer {KEY}"),
    )
    found = candidate(server, api_key_env="FAR_KEY")
    with pytest.raises(CandidateError) as raised:
        one(found)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"  # it was sent
    assert "***" in str(raised.value)
    chain: list[BaseException | None] = [raised.value, raised.value.__cause__, raised.value.__context__]
    for said in (*map(str, chain), *map(repr, chain), repr(found), repr(found._config), caplog.text):
        assert KEY not in said
    assert KEY.encode() not in pickle.dumps(raised.value)
    assert "tried again" in caplog.text
