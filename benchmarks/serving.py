"""A served run under load: what batching gains, what HTTP, queue and transport cost, and whether memory stays."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import uvicorn

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.scale import Scale
from benchmarks.subjects import Subject, babbling, zoo
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.load import load_profile
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine
from haps_search.engines.torch_process import prepare_torch
from haps_search.records.run_folder import RunFolder
from haps_search.serving.app import build_app
from haps_search.serving.exchange import Asked
from haps_search.serving.hosts import CandidateHost, RouterHost
from haps_search.serving.limits import Limits
from haps_search.serving.on_ray import on_ray
from haps_search.serving.served_run import ServedRun, in_this_process
from haps_search.serving.service import Service
from haps_search.types import Message, SampleRequest, Sampling

FIGURES = ("serving_batching", "serving_overhead", "serving_memory")
LIMITS = Limits(seconds=3600.0, open_requests=10_000)
OVERHEAD_MS = 15.0


def measure(scale: Scale, threads: int) -> Measured:
    """Batching with the large candidate and an adapter per question; the rest with the embedded run."""
    prepare_torch(threads)
    with tempfile.TemporaryDirectory() as folder:
        batching = _batching(scale, Path(folder), threads)
        costs = _costs(scale, Path(folder))
        resident = _memory(scale, Path(folder))
    sized = scale.served
    figures = (
        Figure(
            "serving_batching", f"answers/s in batches / one by one, {sized.clients} clients, an adapter each",
            ratios(batching["one by one"], batching["batches"]), Target(3.0, at_least=True),
        ),
        Figure(
            "serving_overhead", "ms of CPU that HTTP, queue and Ray Serve add to a request of the embedded run",
            tuple(1000.0 * (served - bare) for served, bare in zip(costs["served"], costs["bare"], strict=True)),
            Target(OVERHEAD_MS),
        ),
        Figure(
            "serving_memory", f"memory after {sized.many:,} requests / after a tenth of them, embedded run",
            (resident[1] / resident[0],), Target(1.05),
        ),
    )  # fmt: skip
    settings = {"clients": sized.clients, "requests": sized.requests, "many": sized.many, "resident": resident}
    return Measured(figures, {**batching, **costs}, settings)


def _batching(scale: Scale, folder: Path, threads: int) -> dict[str, list[float]]:
    """Seconds until every client has all its answers, clients and server in one process."""
    subject = babbling(scale.large.save(folder / "large"), ("large",), scale.pool, threads)
    (config,) = subject.experiment.candidates
    candidate = FrozenLM.load(config)
    learner = build_learner(subject.experiment, subject.task, {"large": candidate.table})
    with ThreadPoolExecutor(1) as thread:
        router = RouterHost(subject.experiment, subject.task, learner.router, None, thread)

        def served(rows: int) -> Any:
            hosts = {"large": CandidateHost(candidate, rows, thread)}
            return _listening(Service(subject.experiment, subject.task, router, hosts))

        with served(config.batch_rows) as together, served(1) as alone:
            return interleaved(
                {
                    "batches": lambda number: _load(together, scale, subject, number),
                    "one by one": lambda number: _load(alone, scale, subject, number),
                },
                scale.slow_rounds,
            )


def _load(url: str, scale: Scale, subject: Subject, number: int) -> None:
    clients, answers = scale.served.clients, scale.served.answers
    asked = [question.text for question in subject.asked(number, clients * answers)]
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda some: [_ask(url, text) for text in some], [asked[i::clients] for i in range(clients)]))


def _costs(scale: Scale, folder: Path) -> dict[str, list[float]]:
    """Seconds of CPU of a request, in all processes but the client's: of router and candidate alone, and served."""
    subject, run = zoo(scale.pool), folder / "zoo"
    engine = LocalEngine.build(subject.experiment, subject.task)
    place = RunFolder(run, subject.experiment)
    place.save(1, asyncio.run(engine.snapshot()), {"step": 1}, best=True)
    served, profile = ServedRun.of(run, subject.experiment), load_profile("local-cpu")
    texts = [question.text for question in subject.asked(0, scale.served.requests)]
    with (
        in_this_process(served) as bare,
        on_ray(served, profile, print) as (service, _),
        _listening(service) as url,
        _a_child_that_asks(url, texts) as (ask, stranger),
    ):
        return _interleaved_cpu(
            {"bare": lambda: asyncio.run(_answered(bare, texts)), "served": ask},
            scale.slow_rounds,
            len(texts),
            stranger,
        )


async def _answered(service: Service, texts: list[str]) -> None:
    """Router and candidate, without HTTP and in this process."""
    for text in texts:
        routed = await service._router.decide(Asked(text))
        (name,) = routed.decided.assignment
        sampling = Sampling(service.experiment.run.sampling.max_new_tokens, 0.0)
        request = SampleRequest((Message("user", text),), sampling, routed.adapters.get(name))
        await service._candidates[name].sample(request)


_CHILD = """
import json, sys
from benchmarks.serving import _ask
url, texts = sys.argv[1], json.loads(sys.stdin.readline())
for _ in sys.stdin:
    for text in texts:
        _ask(url, text)
    print("asked", flush=True)
"""


@contextmanager
def _a_child_that_asks(url: str, texts: list[str]) -> Iterator[tuple[Callable[[], None], int]]:
    """One after the other by a process whose own time does not count, nor what Ray does while it starts; its id."""
    child = subprocess.Popen([sys.executable, "-c", _CHILD, url], stdin=PIPE, stdout=PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    told, heard = child.stdin, child.stdout

    def ask() -> None:
        told.write("go\n")
        told.flush()
        if heard.readline() != "asked\n":
            raise RuntimeError("the asking process ended")

    try:
        told.write(json.dumps(texts) + "\n")
        yield ask, child.pid
    finally:
        child.kill()
        child.wait()


def _interleaved_cpu(
    variants: dict[str, Callable[[], None]], rounds: int, count: int, stranger: int
) -> dict[str, list[float]]:
    """`stranger` is a process whose time does not count."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            idle = _cpu_of_a_moment(stranger)
            began, before = time.perf_counter(), _cpu(stranger)
            variant()
            spent = _cpu(stranger) - before - idle * (time.perf_counter() - began)
            if number:
                found[name].append(spent / count)
    return found


def _cpu(stranger: int) -> float:
    """Seconds of this process and all below it that live, but one."""
    own = psutil.Process()
    times = [each.cpu_times() for each in (own, *own.children(recursive=True)) if each.pid != stranger]
    return float(sum(each.user + each.system for each in times))


def _cpu_of_a_moment(stranger: int, seconds: float = 4.0) -> float:
    """What Ray takes when nobody asks anything, in CPUs."""
    before = _cpu(stranger)
    time.sleep(seconds)
    return (_cpu(stranger) - before) / seconds


def _memory(scale: Scale, folder: Path) -> tuple[float, float]:
    """MB resident after a tenth of the requests, and after all."""
    subject = zoo(scale.pool)
    texts = [question.text for question in subject.asked(1, 64)]
    sizes = []
    many = scale.served.many
    with in_this_process(ServedRun.of(folder / "zoo", subject.experiment)) as service, _listening(service) as url:
        for part in (many // 10, many - many // 10):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda i: _ask(url, texts[i % len(texts)]), range(part)))
            sizes.append(psutil.Process().memory_info().rss / 1e6)
    return sizes[0], sizes[1]


@contextmanager
def _listening(service: Service) -> Iterator[str]:
    config = uvicorn.Config(build_app(service, LIMITS), port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _ask(url: str, text: str) -> None:
    body = json.dumps({"model": "haps", "messages": [{"role": "user", "content": text}]}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=3600) as answer:
        json.load(answer)
