"""Steps whose adapters are numbers out of nowhere: what the pool's own way costs, without models.

Run as a program by another commit's interpreter, in that commit's folder, so that both take turns in one run: it needs
nothing of this package that a40b5d5 has not.

    python benchmarks/pool_step.py P Q G     then a line with a number on its input for every step
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.scale import Size
from benchmarks.subjects import Subject, babbling
from haps_search import types
from haps_search.config.engines import ClusterProfile
from haps_search.engines.cluster.broker import Broker
from haps_search.engines.cluster.router_actor import RouterActor
from haps_search.engines.cluster.worker import serve

try:
    from haps_search.engines.cluster.ray_engine import RayEngine
except ImportError:  # a40b5d5
    from haps_search.engines.cluster.engine import RayEngine  # type: ignore[import-not-found,no-redef]

adapter_norm: Any
try:
    from haps_search.lora.adapter import adapter_norm
except ImportError:  # a40b5d5, where the trial takes it
    adapter_norm = None

NAME, RANK = "lm", 8
Layout: Any = getattr(types, "AdapterLayout", None) or types.DeltaLayout  # type: ignore[attr-defined]
Adapter: Any = getattr(types, "Adapter", None) or types.Delta  # type: ignore[attr-defined]
STORE_BYTES = 3_000_000_000


def layout(size: int) -> Any:
    """Of one module whose adapter has so many numbers, about."""
    width = max(size // (2 * RANK), 1)
    return Layout(RANK, 0.5, (types.LinearModule("model.layers.0.self_attn.o_proj", 0, width, width, 1.0),))


class NumbersLearner:
    """Stands for a router: the same numbers as adapters of every step, and nothing learnt."""

    def __init__(self, size: int, questions: int) -> None:
        self.layouts = {NAME: layout(size)}
        self.router = self
        self._rows = torch.randn(questions, self.layouts[NAME].size, generator=torch.Generator().manual_seed(0))

    def route(self, questions: Sequence[Any], episodes: int, seed: int, everyone: bool = False) -> Any:
        count = len(questions)
        adapters = {(q, NAME): Adapter(self.layouts[NAME], self._rows[q]) for q in range(count)}
        choices = (((NAME,),) * episodes,) * count
        routes = types.Routes(0, choices, ((0.0,) * episodes,) * count, (((1.0,),),) * count, adapters)
        return routes if adapter_norm is None else replace(routes, adapter_norm=adapter_norm(adapters.values()))

    def update(self, questions: Sequence[Any], signal: Any) -> Any:
        gradients = getattr(signal, "adapter_gradients", None) or signal.delta_gradients
        assert all(each.shape == self._rows[0].shape for each in gradients.values())
        return types.UpdateReport(0, {"grad_norm": float(gradients[0, NAME].norm())})


class NumbersRouter(RouterActor):
    def __init__(self, size: int, questions: int) -> None:
        self._learner: Any = NumbersLearner(size, questions)

    def load(self, *_: Any) -> Any:
        return self._learner.layouts


class NumbersCandidate:
    """Draws words of one token, and takes an adapter's own numbers for a gradient."""

    room = 10**9

    def __init__(self, size: int) -> None:
        self.table = types.ModuleTable(NAME, 1, layout(size).targets)

    def respond(self, requests: Sequence[Any]) -> list[Any]:
        """The one verb of a40b5d5, which gave a gradient for every completion."""
        return [types.Response("x", (i % 2, 1), -1.0, 8, 2, self._gradient(r)) for i, r in enumerate(requests)]  # type: ignore[attr-defined]

    def _gradient(self, request: Any) -> Any:
        return 0.5 * request.delta.values if request.gradient else None

    def sample(self, requests: Sequence[Any]) -> list[Any]:
        return [types.Sampled("x", (i % 2, 1), (-0.5, -0.5), 8, 2) for i, _ in enumerate(requests)]

    def score(self, requests: Sequence[Any]) -> Any:
        from haps_search.lora.adapter import learnt_tensors

        scores = tuple(tuple(types.Score((-0.5, -0.5)) for _ in request.completions) for request in requests)
        return types.Scores(scores, tuple(0.5 * each for each in learnt_tensors(r.adapter for r in requests)))


class WorkerProcess:
    """Serves until the pool ends."""

    def work(self, broker: Any, size: int) -> None:
        start = ray.get(broker.arrive.remote("lm/0", NAME))
        serve(broker, "lm/0", NumbersCandidate(size), "node", start)


@dataclass(frozen=True)
class Run:
    """What takes a step and says how many seconds it took, and the actors behind it."""

    step: Callable[[int], float]
    broker: Any
    router: Any
    worker: Any


@contextmanager
def steps(
    size: int, questions: int, episodes: int, broker: Any = Broker, router: Any = NumbersRouter,
    worker: Any = WorkerProcess,
) -> Iterator[Run]:  # fmt: skip
    """Steps of that many numbers, questions and episodes; a Ray has to be there."""
    profile = ClusterProfile(name="numbers")
    held = ray.remote(broker).options(num_cpus=0, max_concurrency=1000).remote({NAME: 1}, profile.leases, 600.0)
    routes = ray.remote(router).options(num_cpus=0).remote(size, questions)
    works: Any = ray.remote(worker).options(num_cpus=0, max_concurrency=2).remote()
    working = works.work.remote(held, size)
    subject = babbling(Path("nowhere"), [NAME], Size(questions, episodes, 48, 8), 1)
    engine = RayEngine(held, routes, profile)
    asyncio.run(engine.load(subject.experiment))
    try:
        yield Run(partial(_step, subject, engine), held, routes, works)
    finally:
        ray.get(held.fail_all.remote("the end"))
        ray.wait([working], timeout=10)
        for actor in (works, routes, held):
            ray.kill(actor)


def _step(subject: Subject, engine: Any, number: int) -> float:
    began = time.perf_counter()
    subject.step(engine, number)
    return time.perf_counter() - began


def main() -> None:
    size, questions, episodes = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=STORE_BYTES, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    with steps(size, questions, episodes) as run:
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            print(json.dumps({"seconds": run.step(int(line))}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
