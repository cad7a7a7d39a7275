"""One step with an engine that says what the test wrote down: what is drawn, and what the update gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from made import NumberTask, ScriptedEngine, layout, normal, question, routes, said

from haps_search.config.candidates import Price
from haps_search.learning.advantage import RunningMeans
from haps_search.lora.adapter import learnt_tensors
from haps_search.search.step import step
from haps_search.types import (
    Adapter,
    Assignment,
    Question,
    Rollouts,
    Routes,
    Sampled,
    SampleRequest,
    Score,
    ScoreRequest,
    Scores,
    Signal,
    UpdateReport,
)

L, W = "llama", "qwen2"
QUESTIONS = [question("q0", "x"), question("q1", "y")]
TEXTS = {L: {"x": "1", "y": "0"}, W: {"x": "0", "y": "0.5"}}
DRAWN: list[list[Assignment]] = [[(L,), (W,)], [(W,), (W,)]]
LIKELIEST: list[list[Assignment]] = [[(L,)], [(W,)]]


class StepEngine(ScriptedEngine):
    """Draws `DRAWN`, finds `LIKELIEST` the likeliest, and keeps what it is to learn from."""

    def __init__(self) -> None:
        super().__init__(TEXTS)
        self.signals: list[Rollouts] = []

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        self.routed.append((len(questions), episodes))
        return routes(DRAWN if episodes else LIKELIEST, marginals=[[[0.5, 0.5]]] * 2, version=7)

    async def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        assert isinstance(signal, Rollouts)
        self.signals.append(signal)
        return UpdateReport(8, {})


class LearningEngine(StepEngine):
    """The log-likelihood of every completion has the gradient 1."""

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        found = await super().route(questions, episodes, seed)
        used = {(q, name) for q, zs in enumerate(found.assignments) for z in zs for name in z}
        return replace(found, adapters={key: Adapter(layout(), normal(layout().size)) for key in sorted(used)})

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        scores = tuple((Score((-1.0,), None),) * len(request.completions) for request in requests)
        sums = [sum(c.weight for c in request.completions) for request in requests]
        tensors = learnt_tensors(request.adapter for request in requests if request.adapter is not None)
        return Scores(scores, tuple(torch.full_like(t, each) for t, each in zip(tensors, sums, strict=True)))


class ScoringEngine(StepEngine):
    """Draws the first of two candidates in every episode, under an adapter per question, and counts what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = {(q, L): Adapter(layout(), normal(layout().size, seed=q)) for q in range(len(QUESTIONS))}
        self.asked: list[ScoreRequest] = []

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        return routes([[(L,)] * episodes] * 2, self.adapters, [[[0.5, 0.5]]] * 2, version=7)

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        assert all(request.keep for request in requests)
        return [replace(said(str(i % 3 / 2)), token_ids=(i,)) for i, _ in enumerate(requests)]

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        self.asked += requests
        tensors = learnt_tensors(request.adapter for request in requests)
        scores = tuple((Score((-1.0,), 0.5),) * len(request.completions) for request in requests)
        return Scores(scores, tuple(torch.full_like(t, float(i)) for i, t in enumerate(tensors)))


PRICE = Price(read=100_000.0, written=0.0)


def stepped(tiny_lms: dict[str, Path], **changes: Any) -> tuple[StepEngine, Rollouts, dict[str, float]]:
    experiment = tiny_experiment(tiny_lms, run__episodes_per_question=2, **changes)
    first, *others = experiment.candidates
    priced = (first.model_copy(update={"price": PRICE}), *others)
    experiment = experiment.model_copy(update={"candidates": priced})
    engine = StepEngine()
    metrics = asyncio.run(step(engine, NumberTask(), experiment, 0, QUESTIONS)).metrics
    (signal,) = engine.signals
    return engine, signal, metrics


def test_a_step_plays_what_was_drawn_and_weighs_what_it_earned(tiny_lms: dict[str, Path]) -> None:
    engine, signal, metrics = stepped(tiny_lms)
    assert engine.routed == [(2, 2)]
    assert signal.assignments == tuple(map(tuple, DRAWN))
    assert signal.version == 7
    assert signal.architecture_advantages == (pytest.approx((1.0, -1.0)), (0.0, 0.0))
    assert metrics["reward"] == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)


def test_an_answer_that_states_several_earns_nothing_while_learning(
    tiny_lms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEXTS, L, {"x": "0 then 1", "y": "0"})
    _, signal, metrics = stepped(tiny_lms)
    assert signal.architecture_advantages[0] == (0.0, 0.0)
    assert metrics["reward"] == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)


def test_the_greedy_route_plays_the_likeliest_in_every_episode_and_does_not_weight_it(
    tiny_lms: dict[str, Path],
) -> None:
    engine, signal, metrics = stepped(tiny_lms, learning__route="greedy", learning__advantage="paper")
    assert engine.routed == [(2, 0)]
    assert signal.assignments == (((L,), (L,)), ((W,), (W,)))
    assert signal.architecture_advantages == ((0.0, 0.0), (0.0, 0.0))
    assert metrics["reward"] == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)


def test_what_tokens_cost_lowers_the_advantage_and_not_the_reward(tiny_lms: dict[str, Path]) -> None:
    """3 tokens read at 100,000 per million cost 0.3 and weigh half: llama's 1 is worth 0.85."""
    _, free, plain = stepped(tiny_lms, learning__cost_weight=0.0)
    _, weighed, costly = stepped(tiny_lms, learning__cost_weight=0.5)
    assert free.architecture_advantages[0] == pytest.approx((1.0, -1.0))
    assert weighed.architecture_advantages[0] == pytest.approx((0.85, -0.85))
    assert costly["reward"] == plain["reward"]
    assert costly["cost"] == plain["cost"] == pytest.approx(0.3 / 4)


def test_the_papers_advantage_knows_no_cost(tiny_lms: dict[str, Path]) -> None:
    """llama's 1 less what its tokens weigh used to be its advantage."""
    _, weighed, _ = stepped(tiny_lms, learning__cost_weight=0.5, learning__advantage="paper")
    assert weighed.architecture_advantages == ((1.0, -1.0), (0.5, 0.5))


def test_a_step_reads_what_candidates_earned_before_it_and_adds_its_own(tiny_lms: dict[str, Path]) -> None:
    """Nobody knew them in the first step, so llama's lone completion of the first question weighed nothing there."""
    experiment, engine, means = (
        tiny_experiment(tiny_lms, run__episodes_per_question=2),
        LearningEngine(),
        RunningMeans(),
    )
    for index in range(2):
        asyncio.run(step(engine, NumberTask(), experiment, index, QUESTIONS, means))
    first, second = (float(signal.adapter_gradients[0, L][0]) for signal in engine.signals)
    assert first == 0.0
    assert means.state()[L][0] == pytest.approx(1.95)
    assert second == 0.0, "it earned what it had earned"
    worse = float(engine.signals[1].adapter_gradients[0, W][0])
    assert worse == pytest.approx(-(0.0 - 1.0 / 3) / 4), "qwen2 had 0, 0.5 and 0.5"


@pytest.mark.parametrize("episodes", [2, 5])
def test_whatever_g_is_a_question_is_scored_in_one_request_and_gives_one_gradient(
    tiny_lms: dict[str, Path], episodes: int
) -> None:
    experiment = tiny_experiment(tiny_lms, run__episodes_per_question=episodes, learning__kl_weight=0.2)
    engine = ScoringEngine()
    metrics = asyncio.run(step(engine, NumberTask(), experiment, 0, QUESTIONS)).metrics
    assert [len(request.completions) for request in engine.asked] == [episodes] * 2
    for q, request in enumerate(engine.asked):
        assert request.adapter is engine.adapters[q, L]
        assert [c.completion for c in request.completions] == [(q * episodes + g,) for g in range(episodes)]
        assert [c.messages[-1].content for c in request.completions] == [QUESTIONS[q].text] * episodes
        assert [c.kl_weight for c in request.completions] == pytest.approx([0.2 / (2 * episodes)] * episodes)
        assert sum(c.weight for c in request.completions) == pytest.approx(0.0)
    (signal,) = engine.signals
    assert {key: float(g[0]) for key, g in signal.adapter_gradients.items()} == {(0, L): 0.0, (1, L): 1.0}
    assert metrics["kl"] == 0.5
