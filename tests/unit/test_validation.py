"""Greedy play over any number of questions, with an engine that says what the test wrote down."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
import torch
from made import NumberTask, ScriptedEngine, layout, normal, question

from haps_search.config.run import SamplingConfig
from haps_search.lora.adapter import adapter_norm
from haps_search.search.validation import Scored, score_assignment, score_router, validation_metrics
from haps_search.types import Adapter, Episode

QUESTIONS = [question(text=text) for text in "xyz"]
TEXTS = {"a": {"x": "1", "y": "0", "z": "0"}, "b": {"x": "0", "y": "0.5", "z": "0"}}
BEST = {"x": ("a",), "y": ("b",), "z": ("a",)}
ADAPTER = Adapter(layout(), normal(layout().size))
SAMPLED = SamplingConfig(max_new_tokens=4, temperature=0.7, top_k=5)


def routed(engine: ScriptedEngine) -> Scored:
    return asyncio.run(score_router(engine, NumberTask(), QUESTIONS, SAMPLED))


def test_the_likeliest_assignment_answers_greedily_under_its_adapter() -> None:
    engine = ScriptedEngine(TEXTS, BEST, ADAPTER)
    scored = routed(engine)
    assert scored.rewards == (1.0, 0.5, 0.0)
    assert [e.assignment for e in scored.episodes] == [("a",), ("b",), ("a",)]
    assert engine.routed == [(3, 0)]
    assert all(r.sampling.greedy and r.adapter is ADAPTER and not r.keep for r in engine.requests)
    assert scored.adapter_norm == pytest.approx(adapter_norm([ADAPTER]))


def test_one_assignment_is_played_by_frozen_candidates_without_a_router() -> None:
    engine = ScriptedEngine(TEXTS, adapter=ADAPTER)
    scored = asyncio.run(score_assignment(engine, NumberTask(), QUESTIONS, ("b",), SAMPLED))
    assert scored.rewards == (0.0, 0.5, 0.0)
    assert scored.adapter_norm == 0.0
    assert engine.routed == []
    assert all(r.adapter is None for r in engine.requests)


def test_questions_go_out_in_chunks_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = routed(ScriptedEngine(TEXTS, BEST, ADAPTER))
    monkeypatch.setattr("haps_search.search.validation.CHUNK", 2)
    engine = ScriptedEngine(TEXTS, BEST, ADAPTER)
    assert routed(engine) == whole
    assert engine.routed == [(2, 0), (1, 0)]
    frozen = asyncio.run(score_assignment(engine, NumberTask(), QUESTIONS, ("a",), SAMPLED))
    assert frozen.rewards == (1.0, 0.0, 0.0)


class GrowingEngine(ScriptedEngine):
    """Its adapters double with every call of `route`."""

    async def route(self, questions, episodes, seed):  # type: ignore[no-untyped-def]
        taken = await super().route(questions, episodes, seed)
        assert self._adapter is not None
        self._adapter = Adapter(self._adapter.layout, torch.sqrt(torch.tensor(2.0)) * self._adapter.values)
        return taken


def test_the_adapter_norm_weighs_questions_and_not_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haps_search.search.validation.CHUNK", 2)
    found = routed(GrowingEngine(TEXTS, BEST, ADAPTER)).adapter_norm
    assert found == pytest.approx(adapter_norm([ADAPTER]) * (1 + 1 + 2) / 3)


def test_a_router_without_adapters_has_no_norm() -> None:
    assert routed(ScriptedEngine(TEXTS, BEST)).adapter_norm == 0.0


def test_metrics_bear_the_names_that_sweeps_optimise() -> None:
    scored = routed(ScriptedEngine(TEXTS, BEST, ADAPTER))
    assert validation_metrics(scored, ["a", "b", "c"]) == {
        "validation_reward": 0.5,
        "validation_tokens": 2.0,
        "validation_adapter_norm": scored.adapter_norm,
        "validation_contexts_cut": 0.0,
        "validation_parse_failure_share/role0/a": 0.0,
        "validation_parse_failure_share/role0/b": 0.0,
        "validation_share/a": pytest.approx(2 / 3),
        "validation_share/b": pytest.approx(1 / 3),
        "validation_share/c": 0.0,
    }


def test_tokens_of_all_roles_count_for_a_question() -> None:
    engine = ScriptedEngine(TEXTS)
    scored = asyncio.run(score_assignment(engine, NumberTask(2), QUESTIONS, ("a", "b"), SAMPLED))
    assert scored.completion_tokens == 4.0
    assert scored.rewards == (0.0, 0.5, 0.0)


class MeasuredTask(NumberTask):
    """One figure of every episode, another of those that earned nothing."""

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return {"words": 2.0 if episode.answer == "1" else 1.0} | ({} if self.reward(episode) else {"lost": 5.0})


def test_measures_are_means_over_the_questions_that_have_them() -> None:
    engine = ScriptedEngine(TEXTS, BEST)
    scored = asyncio.run(score_router(engine, MeasuredTask(), QUESTIONS, SAMPLED))
    found = validation_metrics(scored, ["a", "b"])
    assert found["validation_words"] == pytest.approx(4 / 3)
    assert found["validation_lost"] == 5.0
