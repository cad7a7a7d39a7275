"""A run on Ray Serve: the same answers as in one process, from replicas that may die."""

from __future__ import annotations

import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import ray
from patience import wait_for
from processes import Started
from ray import serve
from served import NAMES, QUESTIONS, listening, trained

import haps_search as haps
from haps_search.config.engines import ClusterProfile
from haps_search.serving.app import build_app
from haps_search.serving.limits import Limits
from haps_search.serving.on_ray import on_ray
from haps_search.serving.served_run import ServedRun
from haps_search.verbs.find import find_run

pytestmark = pytest.mark.ray
CLIENTS = 64
Opened = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    trained(folder, routing={"low_level": {"type": "generated", "max_relative_norm": 8.0, "init": "xavier"}})
    return folder


@pytest.fixture
def served(running_ray: None, runs: Path) -> Opened:
    @contextmanager
    def opened(limits: Limits = Limits(seconds=600), **changes: Any) -> Iterator[str]:  # noqa: B008
        described = {
            "name": "test", "candidate": {"cpus": 0.25}, "router": {"cpus": 0.25}, "trial": {"cpus": 0.0},
            "worker_start_timeout_s": 900, "grace_s": 5, **changes,
        }  # fmt: skip
        found, profile = find_run(runs, "own"), ClusterProfile.model_validate(described)
        with (
            on_ray(ServedRun.of(found.folder, found.experiment), profile, print) as (service, ready),
            listening(build_app(service, limits, ready=ready)) as url,
        ):
            yield url
        assert not serve.status().applications, "an application is left"

    return opened


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def replicas(candidate: str) -> list[str]:
    """Names of the actors that host it."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in named if f"candidate-{candidate}#" in each["name"]]


@pytest.mark.slow
def test_a_run_on_serve_answers_as_ask_does_whole_and_in_pieces(served: Opened, runs: Path) -> None:
    run = haps.load_run("own", runs)
    with served() as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        assert httpx.get(f"{url}/readyz").status_code == 200
        for question in QUESTIONS[:2]:
            wanted = run.ask(question)
            whole = client.chat.completions.create(model="haps", messages=[user(question)])
            assert whole.choices[0].message.content == wanted.text
            assert whole.haps["adapter_norm"] == pytest.approx({a.candidate: a.norm for a in wanted.adapters}, rel=1e-4)
        pieces = list(client.chat.completions.create(model="haps/sorter", messages=[user(question)], stream=True))
        whole = client.chat.completions.create(model="haps/sorter", messages=[user(question)])
        assert "".join(c.choices[0].delta.content or "" for c in pieces) == whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError) as told:
            client.chat.completions.create(model="adder", messages=[user("1" * 2100)])
        assert told.value.code == "context_length_exceeded"


@pytest.mark.slow
def test_who_loses_his_replica_is_answered_all_the_same(served: Opened) -> None:
    """Of 64 clients with several questions each every request ends once, as an answer or as a clear 503."""
    ended: Counter[tuple[int, int]] = Counter()
    statuses: Counter[int] = Counter()
    half = threading.Event()

    def client(number: int, url: str) -> list[tuple[int, str]]:
        found = []
        for turn in range(4):
            model, stream = (*NAMES, "haps")[(number + turn) % 3], number % 2 == 0
            body = {"model": model, "messages": [user(QUESTIONS[turn])], "stream": stream}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=900)
            ended[number, turn] += 1
            statuses[answer.status_code] += 1
            found.append((answer.status_code, answer.text))
            if sum(ended.values()) > CLIENTS:
                half.set()
        return found

    with served(replicas={"sorter": 2, "adder": 2}) as url, ThreadPoolExecutor(CLIENTS) as pool:
        working = [pool.submit(client, number, url) for number in range(CLIENTS)]
        assert half.wait(900)
        for name in NAMES:
            ray.kill(ray.get_actor(replicas(name)[0], namespace="serve"))
        found = [each for work in working for each in work.result()]
        assert set(ended.values()) == {1}
        assert len(ended) == 4 * CLIENTS
        assert set(statuses) <= {200, 503}
        assert statuses[200] > 2 * CLIENTS
        for status, text in found:
            if status == 503:
                assert httpx.Response(503, text=text).json()["error"]["message"]
            elif text.startswith("data: "):
                assert text.count("[DONE]") + text.count('"error"') == 1
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200, "no replica came back")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--here",), ()], ids=["here", "own-ray"])
def test_the_command_serves_until_it_is_ended_and_leaves_nothing(
    haps: Callable[..., Started], runs: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    """With an answer in the making when SIGTERM comes, which is given all the same."""
    started = haps("serve", "own", "--runs", str(runs), "--port", "0", *options, folder=tmp_path)

    def address() -> str | None:
        found = re.search(r"address +(http://\S+)/v1", started.printed())
        return found[1] if found else None

    wait_for(lambda: address() is not None, started.printed, started)
    url = address()
    body = {"model": "haps", "messages": [user(QUESTIONS[0])]}
    asked = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=900)
    assert asked.status_code == 200, asked.text
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=900)
        metric = "haps_open_requests 1.0"
        wait_for(lambda: last.done() or metric in httpx.get(f"{url}/metrics").text, "it was never open", started)
        started.signal(signal.SIGTERM)
        assert last.result().status_code == 200
    assert started.ended() == 0, started.printed()
    assert "Traceback" not in started.printed()
    logged = (runs / "own" / "logs" / "serve.log").read_text()
    assert QUESTIONS[0] not in logged
