"""`haps collect` over two servers that answer with real LMs and count for themselves, through a spent budget, kill -9,
and whatever a server can do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from os import environ
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from endpoints import Body, Reply, Stub, completion, endpoint, error, serving
from patience import growth, wait_for

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig
from haps_search.types import Message, Sampled, SampleRequest, Sampling

pytestmark = pytest.mark.slow
NAMES = ("adder", "sorter")
PRICE = {"read": 3.0, "written": 5.0}
QUESTIONS, SAMPLES, CONCURRENCY = 24, 2, 4
KEY = "sk-sentinel-1122334455"
WRONGS = (
    lambda reply: error(429, "slow down", Retry_After="0.05"),
    lambda reply: error(500, "oops"),
    lambda reply: replace(reply, cut=10),
    lambda reply: Reply(b"<html>a proxy's page</html>", kind="text/html"),
)
"""What becomes of every seventh answer, in turn; the last two are counted by the server, and nobody gets them."""


class Server:
    """A zoo's LM behind the protocol. It counts what it wrote, per request, and goes wrong now and then."""

    def __init__(self, name: str) -> None:
        config = CandidateConfig.model_validate(
            {"name": name, "source": {"type": "zoo", "name": name}, "device": "cpu"}
        )
        self._lm, self._lock = FrozenLM.load(config), threading.Lock()
        self.counted: list[tuple[str, int, int]] = []
        self._answered = 0

    def __call__(self, body: Body) -> Reply:
        messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        sampling = Sampling(body["max_tokens"], body["temperature"], body["seed"], 0, body["top_p"])
        with self._lock:
            (said,) = self._lm.sample([SampleRequest(messages, sampling)])
            self._answered += 1
            wrong = self._answered % 7 == 0
            which = self._answered // 7 % len(WRONGS)
            if not (wrong and which < 2):  # a refused request is not counted
                self.counted.append((json.dumps(body, sort_keys=True), said.prompt_tokens, said.completion_tokens))
        reply = _reply(said)
        return WRONGS[which](reply) if wrong else reply


def _reply(said: Sampled) -> Reply:
    return completion(said.text, said.prompt_tokens, said.completion_tokens)


@pytest.fixture
def servers() -> Iterator[dict[str, tuple[Server, Stub]]]:
    with ExitStack() as stack:
        made = {name: Server(name) for name in NAMES}
        yield {name: (server, stack.enter_context(serving(Stub(usual=server)))) for name, server in made.items()}


def haps(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from haps_search.cli.main import main; sys.argv[0] = 'haps'; main()"
    command = [sys.executable, "-c", code, "collect", "far.yaml", "-o", "table.parquet", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**environ, "FAR_KEY": KEY},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_every_cell_once_and_costs_as_the_servers_count(
    servers: dict[str, tuple[Server, Stub]], tmp_path: Path
) -> None:
    pool = [
        endpoint(stub.url, name, price=PRICE, api_key_env="FAR_KEY", concurrency=CONCURRENCY)
        for name, (_, stub) in servers.items()
    ]
    described: dict[str, Any] = {
        "name": "far",
        "experiment": {
            "task": {"type": "skills"},
            "candidates": pool,
            "routing": {"low_level": {"type": "none"}},
            "run": {"sampling": {"max_new_tokens": 8}},
            "engine": {"type": "local", "threads": 1},
        },
        "tracking": {"mlflow": False},
    }
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(described))
    arguments = ("--limit", str(QUESTIONS), "--samples", str(SAMPLES), "--chunk", "3")
    answers = tmp_path / "table.parquet.parts" / "answers.jsonl"

    spent = haps(tmp_path, *arguments, "--max-cost", "0.0015")
    printed = spent.communicate()[0]
    assert spent.returncode == 75, printed
    assert "--max-cost is reached" in printed
    assert 0 < sum(json.loads(line)["cost"] for line in answers.read_text().splitlines()) <= 0.0015

    there = len(answers.read_bytes().splitlines())
    killed = haps(tmp_path, *arguments)
    try:
        more = lambda: len(answers.read_bytes().splitlines()) >= there + 10  # noqa: E731
        wait_for(more, "it never came to its middle", killed, growth(tmp_path), every_s=0.002)
    finally:
        killed.kill()
        killed.communicate()
    assert killed.returncode == -9
    assert not (tmp_path / "table.parquet").exists()

    last = haps(tmp_path, *arguments)
    printed += last.communicate()[0]
    assert last.returncode == 0, printed
    assert "endpoints were paid" in printed

    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    wanted = [(f"train-{q}", json.dumps([n]), s) for q in range(QUESTIONS) for n in NAMES for s in range(SAMPLES)]
    assert [(r["id"], r["assignment"], r["sample"]) for r in rows] == wanted
    for name, (server, stub) in servers.items():
        own = [r for r in rows if json.loads(r["assignment"]) == [name]]
        times = Counter(body for body, _, _ in server.counted)
        once = {body: (read, written) for body, read, written in server.counted}
        assert len(once) == len(own)  # each request of the table, and no other
        paid = sum(3.0 * read + 5.0 * written for read, written in once.values()) / 1e6
        assert sum(r["cost"] for r in own) == pytest.approx(paid)
        # What was counted twice had an answer cut off or spoilt, or was under way at the kill.
        spoilt = len(server.counted) // 7 + 1
        assert sum(times.values()) - len(once) <= CONCURRENCY + spoilt
        assert {h["authorization"] for h in stub.headers} == {f"Bearer {KEY}"}
        assert stub.at_a_time <= CONCURRENCY
    assert any(r["reward"] == 1.0 for r in rows)
    assert KEY not in printed
    assert all(KEY.encode() not in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
