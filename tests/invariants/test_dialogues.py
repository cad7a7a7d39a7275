"""Two roles: one adapter per question and candidate whoever speaks under it, and no trace of what else is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dialogue_task import DIALOGUE, DialogueTask
from experiments import tiny_experiment
from torch import Tensor

from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.episodes.play import Play, play
from haps_search.learning.advantage import RunningMeans, judged
from haps_search.learning.objective import rollouts, score_requests
from haps_search.search.step import score
from haps_search.types import (
    Adapter,
    Assignment,
    Distribution,
    Episode,
    GivenCompletion,
    Question,
    Routes,
    Sampled,
    SampleRequest,
    ScoreRequest,
)

L, W = "llama", "qwen2"
SEATS: list[Assignment] = [(L, L), (L, W), (W, L), (W, W)]
"""Student and teacher."""


class Recording:
    """An engine that keeps what was asked of `sample`, and may send requests one by one."""

    def __init__(self, engine: LocalEngine, one_by_one: bool = False) -> None:
        self._engine, self._one_by_one = engine, one_by_one
        self.batches: list[tuple[str, list[SampleRequest]]] = []

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self.batches.append((candidate, list(requests)))
        if not self._one_by_one:
            return await self._engine.sample(candidate, requests)
        return [(await self._engine.sample(candidate, [request]))[0] for request in requests]


@pytest.fixture(scope="module")
def experiment(tiny_lms: dict[str, Path]) -> Experiment:
    return tiny_experiment(tiny_lms, task=DIALOGUE)


@pytest.fixture(scope="module")
def task(experiment: Experiment) -> DialogueTask:
    return DialogueTask(experiment.task)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(experiment: Experiment, task: DialogueTask) -> LocalEngine:
    return LocalEngine.build(experiment, task)


@pytest.fixture(scope="module")
def asked(task: DialogueTask) -> Sequence[Question]:
    return task.questions("train")[:3]


@pytest.fixture(scope="module")
def routes(engine: LocalEngine, asked: Sequence[Question]) -> Routes:
    """Every pair of candidates on every question."""
    drawn = asyncio.run(engine.route(asked, 4, seed=3))
    seats = tuple(tuple(SEATS) for _ in asked)
    return replace(drawn, assignments=seats, adapters=engine.all_adapters(asked))


def played(
    sampling: Recording, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> list[list[Episode]]:
    how = Play(experiment.run.sampling, seed=5, keep=True)
    return asyncio.run(play(sampling.sample, task, asked, routes.assignments, routes.adapters, how))


def signal(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, episodes: list[list[Episode]], routes: Routes
) -> dict[tuple[int, str], Tensor]:
    """With the paper's advantage every completion of an episode weighs its reward, and -1 where that is 0."""
    config = experiment.learning.model_copy(update={"advantage": "paper", "kl_weight": 0.0})
    earned = [[task.reward(e) for e in row] for row in episodes]
    weighed = judged(config.advantage, routes.assignments, earned, earned, RunningMeans())
    requests = score_requests(routes, episodes, weighed, distribution(experiment), 0.0)
    found = rollouts(routes, weighed, requests, asyncio.run(score(engine, requests)), config)
    return dict(found.adapter_gradients)


def distribution(experiment: Experiment) -> Distribution:
    sampling = experiment.run.sampling
    return Distribution(sampling.temperature, sampling.top_k, sampling.top_p)


def same(one: Episode, other: Episode) -> None:
    assert [u.role for u in one.completions] == [u.role for u in other.completions]
    for a, b in zip(one.completions, other.completions, strict=True):
        assert (a.sampled.token_ids, a.parsed) == (b.sampled.token_ids, b.parsed)
        assert a.sampled.log_likelihood == pytest.approx(b.sampled.log_likelihood, abs=1e-10)


def test_a_dialogue_is_the_same_in_any_company(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> None:
    together = played(Recording(engine), experiment, task, asked, routes)
    apart = played(Recording(engine, one_by_one=True), experiment, task, asked, routes)
    assert len({u.sampled.text for row in together for e in row for u in e.completions}) > 12
    gradients, scored_later = (signal(engine, experiment, task, rows, routes) for rows in (together, apart))
    for q, question in enumerate(asked):
        alone_routes = replace(
            routes,
            assignments=(routes.assignments[q],),
            adapters={(0, name): routes.adapters[q, name] for name in (L, W)},
        )
        (alone,) = played(Recording(engine), experiment, task, [question], alone_routes)
        for a, b, c in zip(together[q], apart[q], alone, strict=True):
            assert [u.role for u in a.completions] == ["student", "teacher", "student"]
            same(a, b)
            same(a, c)
        alone_gradients = signal(engine, experiment, task, [alone], alone_routes)
        for name in (L, W):
            wanted = gradients[q, name]
            assert float(wanted.norm()) > 1e-6
            torch.testing.assert_close(scored_later[q, name], wanted, rtol=1e-9, atol=1e-10)
            # Alone it is one question of one, not of three.
            torch.testing.assert_close(alone_gradients[0, name] / len(asked), wanted, rtol=1e-9, atol=1e-10)


def test_each_turn_is_one_batch_per_candidate_and_both_roles_have_one_adapter(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> None:
    sampling = Recording(engine)
    played(sampling, experiment, task, asked, routes)
    assert sorted((name, len(batch)) for name, batch in sampling.batches) == sorted([(L, 6), (W, 6)] * 3)
    for name, batch in sampling.batches:
        used: list[Adapter | None] = [request.adapter for request in batch]
        assert {id(adapter) for adapter in used} == {id(routes.adapters[q, name]) for q in range(len(asked))}


def test_gradients_of_both_roles_add_up_on_their_shared_adapter(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> None:
    """Every completion scored on its own, and the sum taken by hand."""
    episodes = played(Recording(engine), experiment, task, asked, routes)
    found = signal(engine, experiment, task, episodes, routes)
    assert set(found) == {(q, name) for q in range(len(asked)) for name in (L, W)}
    for (q, name), gradient in found.items():
        wanted = torch.zeros_like(gradient)
        for episode in episodes[q]:
            for said in (u for u in episode.completions if u.candidate == name):
                given = GivenCompletion(said.messages, said.sampled.token_ids, 1.0)
                request = ScoreRequest((given,), routes.adapters[q, name], distribution(experiment))
                (alone,) = asyncio.run(engine.score(name, [request])).gradients
                assert alone is not None
                wanted -= (task.reward(episode) or -1.0) * alone / 12
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
