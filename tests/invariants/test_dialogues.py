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

from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.episodes.play import Play, play
from haps_search.learning.advantage import RunningMeans, judged
from haps_search.learning.objective import rollouts
from haps_search.types import Adapter, Assignment, Episode, Question, Request, Response, Routes

L, W = "llama", "qwen2"
SEATS: list[Assignment] = [(L, L), (L, W), (W, L), (W, W)]
"""Student and teacher."""


class Recording:
    """An engine's `speak` that keeps what was asked, and may send requests one by one."""

    def __init__(self, engine: LocalEngine, one_by_one: bool = False) -> None:
        self._engine, self._one_by_one = engine, one_by_one
        self.batches: list[tuple[str, list[Request]]] = []

    async def speak(self, candidate: str, requests: Sequence[Request]) -> list[Response]:
        self.batches.append((candidate, list(requests)))
        if not self._one_by_one:
            return await self._engine.speak(candidate, requests)
        return [(await self._engine.speak(candidate, [request]))[0] for request in requests]


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
    speaking: Recording, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> list[list[Episode]]:
    how = Play(experiment.run.sampling, seed=5, gradient=True, kl=True)
    return asyncio.run(play(speaking.speak, task, asked, routes.assignments, routes.adapters, how))


def same(one: Episode, other: Episode) -> None:
    assert [u.role for u in one.completions] == [u.role for u in other.completions]
    for a, b in zip(one.completions, other.completions, strict=True):
        assert (a.response.token_ids, a.parsed) == (b.response.token_ids, b.parsed)
        assert a.response.log_likelihood == pytest.approx(b.response.log_likelihood, abs=1e-10)
        assert a.response.gradient is not None
        assert float(a.response.gradient.norm()) > 1e-6
        torch.testing.assert_close(a.response.gradient, b.response.gradient, rtol=1e-9, atol=1e-10)


def test_a_dialogue_is_the_same_in_any_company(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> None:
    together = played(Recording(engine), experiment, task, asked, routes)
    apart = played(Recording(engine, one_by_one=True), experiment, task, asked, routes)
    assert len({u.response.text for row in together for e in row for u in e.completions}) > 12
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


def test_each_turn_is_one_batch_per_candidate_and_both_roles_speak_under_one_adapter(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> None:
    speaking = Recording(engine)
    played(speaking, experiment, task, asked, routes)
    assert sorted((name, len(batch)) for name, batch in speaking.batches) == sorted([(L, 6), (W, 6)] * 3)
    for name, batch in speaking.batches:
        used: list[Adapter | None] = [request.adapter for request in batch]
        assert {id(adapter) for adapter in used} == {id(routes.adapters[q, name]) for q in range(len(asked))}


def test_gradients_of_both_roles_add_up_on_their_shared_adapter(
    engine: LocalEngine, experiment: Experiment, task: DialogueTask, asked: Sequence[Question], routes: Routes
) -> None:
    """With the paper's advantage every completion of an episode weighs its reward, and -1 where that is 0."""
    paper = experiment.learning.model_copy(update={"advantage": "paper", "kl_weight": 0.0})
    episodes = played(Recording(engine), experiment, task, asked, routes)
    rewards = [[task.reward(e) for e in row] for row in episodes]
    advantages = judged("paper", routes.assignments, rewards, rewards, RunningMeans())
    signal = rollouts(routes, episodes, advantages, paper)
    assert set(signal.adapter_gradients) == {(q, name) for q in range(len(asked)) for name in (L, W)}
    for (q, name), gradient in signal.adapter_gradients.items():
        wanted = torch.zeros_like(gradient)
        for episode, reward in zip(episodes[q], rewards[q], strict=True):
            for said in (u.response for u in episode.completions if u.candidate == name):
                assert said.gradient is not None
                wanted -= (reward or -1.0) * said.gradient / 12
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
