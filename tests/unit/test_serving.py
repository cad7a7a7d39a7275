"""The unchanged OpenAI client against a served run of the embedded zoo."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import openai
import pytest
import torch
from browser import BROWSER, opened
from patience import wait_for
from replays import MODELS, replay_experiment, skilled
from served import NAMES, QUESTIONS, listening, trained

import haps_search as haps
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig
from haps_search.engines.local import LocalEngine
from haps_search.records.run_folder import RunFolder
from haps_search.search.gated import Gate
from haps_search.search.loop import run as run_loop
from haps_search.serving.app import Front, build_app
from haps_search.serving.limits import Limits
from haps_search.serving.served_run import ServedRun, in_this_process
from haps_search.serving.service import Service
from haps_search.tasks.build import build_task
from haps_search.verbs.find import find_run
from haps_search.verbs.loaded_run import Run

LONG = "[x] sort zyxwvu="


@dataclass(frozen=True)
class Live:
    """A served run, and the same run as `haps ask` has it."""

    service: Service
    front: Front
    url: str
    run: Run

    def client(self, key: str = "any") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def ask(self, question: str, model: str = "haps", **more: Any) -> Any:
        return self.client().chat.completions.create(model=model, messages=[user(question)], **more)


def user(text: str) -> Any:
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    # Adapters so large that nobody says what he would say frozen.
    trained(folder, routing={"low_level": {"type": "generated", "max_relative_norm": 8.0, "init": "xavier"}})
    return folder


@pytest.fixture(scope="module")
def live(runs: Path) -> Iterator[Live]:
    found = find_run(runs, "own")
    limits = Limits(body_bytes=6000, prompt_characters=2500, new_tokens=40, seconds=300)
    with in_this_process(ServedRun.of(found.folder, found.experiment)) as service:
        app = build_app(service, limits)
        with listening(app) as url:
            yield Live(service, app.state.front, url, haps.load_run("own", runs))


def test_greedy_answers_are_those_of_ask_with_the_decision_and_what_it_cost(live: Live) -> None:
    changed = 0
    for question in QUESTIONS:
        wanted = live.run.ask(question)
        got = live.ask(question)
        assert got.choices[0].message.content == wanted.text
        assert got.choices[0].finish_reason in ("stop", "length")
        said = got.haps
        assert said["assignment"] == {"answerer": wanted.decision.assignment[0]}
        assert said["probabilities"]["answerer"] == pytest.approx(wanted.decision.probabilities[0], rel=1e-4)
        assert said["adapter_norm"] == pytest.approx({a.candidate: a.norm for a in wanted.adapters}, rel=1e-4)
        usage = got.usage
        assert said["cost"] == pytest.approx((usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6)
        frozen = live.ask(question, extra_body={"adapters": False})
        assert frozen.choices[0].message.content == wanted.frozen[0].text
        changed += wanted.text != wanted.frozen[0].text
    assert changed, "the adapters change nothing, so that they were used was not seen"


def test_a_candidate_is_asked_by_name_frozen_or_with_the_adapter_for_the_question(live: Live) -> None:
    assert [model.id for model in live.client().models.list()] == [
        "haps", *(f"haps/{name}" for name in NAMES), *NAMES,
    ]  # fmt: skip
    for name in NAMES:
        frozen, adapted = live.ask(LONG, name), live.ask(LONG, f"haps/{name}")
        assert frozen.haps["assignment"] == adapted.haps["assignment"] == {"answerer": name}
        assert frozen.haps["adapter_norm"] == {}
        assert set(adapted.haps["adapter_norm"]) == {name}
        assert frozen.choices[0].message.content != adapted.choices[0].message.content


def test_a_stream_is_the_answer_in_pieces_with_the_decision_in_its_header_and_all_of_it_in_its_last_event(
    live: Live,
) -> None:
    whole = live.ask(LONG, "sorter")
    client = live.client()
    with client.chat.completions.with_streaming_response.create(
        model="sorter", messages=[user(LONG)], stream=True, stream_options={"include_usage": True}
    ) as raw:
        assert json.loads(raw.headers["x-haps"])["assignment"] == {"answerer": "sorter"}
        events = [line.removeprefix("data: ") for line in raw.iter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(line) for line in events[:-1]]
    texts = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(texts) == whole.choices[0].message.content != ""
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole.usage.to_dict()
    assert chunks[-1]["haps"]["cost"] == whole.haps["cost"]
    assert all("haps" not in chunk for chunk in chunks[:-1])


def test_pieces_come_while_the_text_is_written(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding waits until the client has read the first piece: a service that kept it back would never end."""
    read, drawn = threading.Event(), FrozenLM.sample_watched

    def held(self: FrozenLM, requests: Any, watch: Any) -> Any:
        def after(place: int, text: Any) -> bool:
            going_on: bool = watch(place, text)
            if text():
                assert read.wait(60), "the client has read nothing while the text was written"
            return going_on

        return drawn(self, requests, after)

    monkeypatch.setattr(FrozenLM, "sample_watched", held)
    pieces = []
    for chunk in live.ask(LONG, "sorter", stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
            read.set()
    assert len(pieces) > 1
    assert "".join(pieces) == live.ask(LONG, "sorter").choices[0].message.content


def test_many_clients_get_their_own_answers_from_shared_batches(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    drawn = FrozenLM.sample_watched

    def counted(self: FrozenLM, requests: Any, watch: Any) -> Any:
        batches.append(len(requests))
        return drawn(self, requests, watch)

    monkeypatch.setattr(FrozenLM, "sample_watched", counted)
    asked = [(f"[x] sort {word}=", model) for word in ("cab", "fed", "zyx") for model in ("sorter", "haps/sorter")] * 3
    alone = {each: live.ask(*each).choices[0].message.content for each in set(asked)}
    batches.clear()
    with ThreadPoolExecutor(len(asked)) as clients:
        got = list(clients.map(lambda each: live.ask(*each).choices[0].message.content, asked))
    assert got == [alone[each] for each in asked]
    assert sum(batches) == len(asked)
    assert max(batches) > 1, "nobody shared a batch"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"model": "gpt"}, 404, "model"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"n": 2}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"max_tokens": 41}, 400, "max_tokens"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
        ({"temperature": 3}, 400, "temperature"),
        ({"typo": 1}, 400, "typo"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 2501}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "1" * 2100}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 7000}]}, 413, None),
        ({"cost_weight": 0.5}, 400, "cost_weight"),
        ({"seed": 2**64}, 400, "seed"),
        ({"top_k": 2**63}, 400, "top_k"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_served_is_refused_in_openai_s_shape_with_the_field(
    live: Live, body: dict[str, Any], status: int, field: str | None, stream: bool
) -> None:
    asked = {"model": "haps", "messages": [user("[x] 1+2=")], "stream": stream, **body}
    answer = httpx.post(f"{live.url}/v1/chat/completions", json=asked)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", field)


HALF = b'{"model": "haps", "messages": [{"role": "user", "content": "cut \\ud83d"}]}'


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 3000, HALF])
def test_a_malformed_body_is_told_so(live: Live, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{live.url}/v1/chat/completions", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_another_site_s_page_can_neither_post_nor_come_under_a_name_of_its_own(live: Live) -> None:
    body = json.dumps({"model": "haps", "messages": [user("[x] 1+2=")]})
    simple = httpx.post(f"{live.url}/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
    assert simple.status_code == 400
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("LOCALHOST:1", 200),
        ("127.0.0.2", 200),
    ):
        assert httpx.get(f"{live.url}/v1/models", headers={"host": host}).status_code == status
    assert httpx.get(f"{live.url}/nothing").json()["error"]["type"] == "invalid_request_error"


def test_who_leaves_in_the_middle_costs_nothing_more(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding waits at its second token until the client has gone, and ends there though there is more to say."""
    assert live.ask(LONG, "sorter").usage.completion_tokens > 3
    tokens: list[int] = []
    gone, ended, drawn = threading.Event(), threading.Event(), FrozenLM.sample_watched

    def held(self: FrozenLM, requests: Any, watch: Any) -> Any:
        def after(place: int, text: Any) -> bool:
            tokens.append(place)
            going_on: bool = watch(place, text)
            if len(tokens) == 2:
                assert gone.wait(120)
                wait_for(lambda: not watch(place, text), "nobody noticed that the client has gone")
                going_on = watch(place, text)
            return going_on

        found = drawn(self, requests, after)
        ended.set()
        return found

    monkeypatch.setattr(FrozenLM, "sample_watched", held)
    stream = live.ask(LONG, "sorter", stream=True)
    next(iter(stream))
    stream.close()
    gone.set()
    wait_for(lambda: live.front.open_requests == 0, "the request is still open")
    assert ended.wait(120)
    assert len(tokens) == 2


def test_history_goes_to_the_candidate_and_the_last_message_alone_to_the_router(live: Live) -> None:
    talk = [{"role": "system", "content": "be kind"}, user("[x] sort ba="), {"role": "assistant", "content": "ab"}]
    (alone, later) = (
        live.client().chat.completions.create(model="haps", messages=[*before, user(QUESTIONS[0])])
        for before in ([], talk)
    )
    assert later.haps["probabilities"]["answerer"] == pytest.approx(alone.haps["probabilities"]["answerer"], rel=1e-4)
    assert later.usage.prompt_tokens > alone.usage.prompt_tokens


def test_an_answer_goes_back_as_the_client_has_it(live: Live) -> None:
    """With all the nulls of its type, and those that the client adds."""
    before, client = live.ask(QUESTIONS[0]).choices[0].message, live.client()
    for said in (before, before.model_dump(), {"role": "assistant", "content": None, "refusal": "not that"}):
        talk = [user(QUESTIONS[0]), said, user(QUESTIONS[1])]
        assert client.chat.completions.create(model="haps", messages=talk).choices[0].message.content is not None


def test_seeds_make_a_draw_the_same_again(live: Live) -> None:
    def drawn(seed: int) -> str:
        text: str = live.ask(LONG, "haps/adder", temperature=2.0, seed=seed).choices[0].message.content
        return text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(6)}) > 1


def test_a_full_service_says_when_to_come_again(live: Live, runs: Path) -> None:
    with listening(build_app(live.service, Limits(open_requests=0))) as url:
        body = {"model": "haps", "messages": [user("x")]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"


def test_an_answer_that_takes_too_long_is_a_clear_503(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*given: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(type(live.service), "reply", never)
    with listening(build_app(live.service, Limits(seconds=1))) as url:
        for stream in (False, True):
            body = {"model": "haps", "messages": [user("x")], "stream": stream}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")


def test_a_key_is_demanded_of_everything_that_knows_the_run(live: Live) -> None:
    with listening(build_app(live.service, Limits(), key="right", local=False)) as url:
        other = Live(live.service, live.front, url, live.run)
        for wrong in ("wrong", "righ"):
            with pytest.raises(openai.AuthenticationError) as told:
                other.client(wrong).models.list()
            assert told.value.code == "invalid_api_key"
        assert other.client("right").models.list().data
        statuses = {path: httpx.get(url + path).status_code for path in ("/", "/healthz", "/readyz", "/metrics")}
        assert statuses == {"/": 200, "/healthz": 200, "/readyz": 200, "/metrics": 401}


def test_metrics_count_requests_tokens_and_shares(live: Live) -> None:
    def counted() -> dict[str, float]:
        lines = httpx.get(f"{live.url}/metrics").text.splitlines()
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before, got = counted(), live.ask(LONG)
    after = counted()
    (chosen,) = got.haps["assignment"].values()
    grown = {key: after[key] - before.get(key, 0.0) for key in after}
    assert grown['haps_requests_total{model="haps",status="200"}'] == 1
    assert grown[f'haps_chosen_total{{candidate="{chosen}",escalated="false"}}'] == 1
    assert grown[f'haps_tokens_total{{candidate="{chosen}",kind="written"}}'] == got.usage.completion_tokens
    assert after["haps_open_requests"] == 0
    assert LONG not in httpx.get(f"{live.url}/metrics").text


def test_below_the_least_confidence_the_fallback_answers(live: Live, runs: Path) -> None:
    found = find_run(runs, "own")
    sure = live.ask(QUESTIONS[0]).haps
    (chosen,) = sure["assignment"].values()
    other = next(name for name in NAMES if name != chosen)
    for least, escalated in ((sure["confidence"] - 1e-3, False), (sure["confidence"] + 1e-3, True)):
        served = ServedRun.of(found.folder, found.experiment, gate=Gate(least, other))
        with in_this_process(served) as service, listening(build_app(service, Limits())) as url:
            got = Live(service, live.front, url, live.run).ask(QUESTIONS[0])
        assert got.haps["escalated"] is escalated
        assert got.haps["assignment"] == {"answerer": other if escalated else chosen}
        assert set(got.haps["adapter_norm"]) == {other if escalated else chosen}


def test_the_page_needs_nothing_from_elsewhere(live: Live) -> None:
    answer = httpx.get(f"{live.url}/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"https?://|src=|@import|url\(", answer.text)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_shows_who_would_answer_and_both_answers(live: Live, tmp_path: Path) -> None:
    """In a browser, which has the question from its address, and asks it when it is told to."""
    question = QUESTIONS[1]
    wanted = live.run.ask(question)
    both = "document.querySelector('#frozen-facts dd') !== null && !document.getElementById('ask').disabled"
    there = "document.getElementById('question').value !== ''"
    asks = "document.getElementById('form').requestSubmit()"
    with opened(f"{live.url}/#ask={quote(question)}", tmp_path) as tab:
        tab.wait_until(there)
        assert tab.value(both) is not True, "it was done without being asked to"
        tab.value(asks)
        tab.wait_until(both)
        page = tab.told()
    for side, text in (("adapted", wanted.text), ("frozen", wanted.frozen[0].text)):
        shown = re.search(rf'id="{side}-text">([^<]*)<', page)
        assert shown is not None
        assert html.unescape(shown[1]) == text
    (chosen,) = wanted.decision.assignment
    for name, share in wanted.decision.probabilities[0].items():
        mark = " is-chosen" if name == chosen else ""
        assert f'<span class="name{mark}">{name}</span>' in page
        assert f'<span class="share{mark}">{100 * share:.1f} %</span>' in page
    assert len(re.findall("<dt[^>]*>cost</dt>", page)) == 2
    assert 'id="error" role="alert" hidden' in page


def test_a_router_of_a_table_is_a_gateway_over_candidates_of_the_same_names_and_weighs_costs(tmp_path: Path) -> None:
    """Costs so different that any weight of them decides."""
    experiment = replay_experiment(
        skilled(tmp_path / "table.jsonl", 60, costs=(8.0, 1.0, 2.0)), run__steps=4, run__questions_per_step=8,
        run__validation={"every": 4, "questions": 20}, run__checkpoint_every=4,
        learning__outcome_loss={"type": "squared_error", "temperature": 0.2},
    )  # fmt: skip
    task, folder = build_task(experiment.task), tmp_path / "replay"
    asyncio.run(run_loop(LocalEngine.build(experiment, task), task, experiment, RunFolder(folder, experiment)))
    pool = [{"name": n, "source": {"type": "zoo", "name": n}, "price": {"written": 1}} for n in MODELS]
    hosted = [CandidateConfig.model_validate(each) for each in pool]
    with (
        in_this_process(ServedRun.of(folder, experiment, hosted)) as service,
        listening(build_app(service, Limits())) as url,
    ):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        assert [model.id for model in client.models.list()] == ["haps", *MODELS]

        def asked(model: str, **more: Any) -> Any:
            return client.chat.completions.create(model=model, messages=[user("[x] add 3+4=")], extra_body=more)

        routed = asked("haps")
        (chosen,) = routed.haps["assignment"].values()
        assert routed.choices[0].message.content == asked(chosen).choices[0].message.content
        assert routed.haps["cost"] == pytest.approx(routed.usage.completion_tokens / 1e6)
        assert asked("haps", cost_weight=1000.0).haps["assignment"] == {"answerer": "reverser"}
        with pytest.raises(openai.BadRequestError) as told:
            asked("adder", cost_weight=1.0)
        assert told.value.param == "cost_weight"
