"""What the low level reads of a question: pooled over which tokens, standardised, with some numbers left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from made import normal, table
from pydantic import ValidationError
from torch import Tensor

from haps_search.candidates.exact import exact
from haps_search.config.routing import PooledConfig
from haps_search.engines.assembly import STANDARD, build_learner
from haps_search.errors import CheckpointError, ConfigError
from haps_search.learning.update import Learner, dropout_noise
from haps_search.routing.low_input import LEAST, LowInput
from haps_search.types import Question, Rollouts, Split

QUESTIONS = DenseTask().questions("train")
OF_QUESTION = {"routing__prompt": "full", "routing__low_level__pooled": {"of": "question"}}
STANDARDISED = {"routing__low_level__pooled": {"standardised": True}}
Build = Callable[..., Learner]


class ManyTask(DenseTask):
    """More training questions than are taken to standardise by, the last ones unlike the others."""

    def questions(self, split: Split) -> list[Question]:
        return [Question(f"{split}-{i}", f"{i} " + "x" * (i // 100), "") for i in range(2 * STANDARD)]


class EmptyTask(DenseTask):
    def questions(self, split: Split) -> list[Question]:
        return []


@pytest.fixture
def build(tiny_lms: dict[str, Path]) -> Build:
    def built(task: DenseTask | None = None, **changes: Any) -> Learner:
        experiment = tiny_experiment(tiny_lms, **changes)
        return build_learner(experiment, task or DenseTask(), {name: table(name) for name in ("llama", "qwen2")})

    return built


def pooled(learner: Learner) -> Tensor:
    with torch.no_grad():
        return learner.router.read(QUESTIONS).pooled


def cosine(states: Tensor) -> float:
    """Mean over pairs of different rows."""
    unit = torch.nn.functional.normalize(states, dim=1)
    return float((unit @ unit.mT)[~torch.eye(len(unit), dtype=torch.bool)].mean())


def test_by_hand() -> None:
    low = LowInput(PooledConfig(standardised=True), 3).double()
    low.take(torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 6.0]], dtype=torch.float64))
    found = low(torch.tensor([[4.0, 5.0, 0.0], [4.0, 5.03, 0.0]], dtype=torch.float64), None)
    # Deviations are 1, 0 and 2; their mean is 1, and the least that divides 0.01.
    assert found.tolist() == [pytest.approx([2.0, 0.0, -2.0]), pytest.approx([2.0, 0.03 / LEAST, -2.0])]


def test_states_that_are_all_alike_stay_finite() -> None:
    low = LowInput(PooledConfig(standardised=True), 2)
    low.take(torch.ones(4, 2))
    assert low(torch.ones(1, 2), None).tolist() == [[0.0, 0.0]]


def test_dropout_leaves_out_its_share_and_keeps_the_mean() -> None:
    low = LowInput(PooledConfig(dropout=0.25), 1000)
    states = torch.ones(20, 1000)
    assert torch.equal(low(states, None), states)
    found = low(states, torch.Generator().manual_seed(0))
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert found[found != 0].unique().tolist() == [pytest.approx(1 / 0.75)]
    assert torch.equal(low(states, torch.Generator().manual_seed(0)), found)
    assert not torch.equal(low(states, torch.Generator().manual_seed(1)), found)


def test_by_default_the_state_is_the_backbones_own(build: Build) -> None:
    learner = build()
    with torch.no_grad():
        assert torch.equal(pooled(learner), learner.router.backbone.read([q.text for q in QUESTIONS])[0])
    assert learner.snapshot().fitted == {}


@pytest.mark.parametrize("high", [{"type": "head"}, {"type": "lm"}])
def test_the_questions_own_tokens_are_pooled_and_the_high_level_reads_all(build: Build, high: dict[str, Any]) -> None:
    learner = build(**OF_QUESTION, routing__high_level=high, routing__backbone__max_tokens=200)
    whole = build(routing__prompt="full", routing__high_level=high, routing__backbone__max_tokens=200)
    router = learner.router
    texts = router._prompt.render(QUESTIONS)
    framed = router.backbone._framing.framed(texts)
    body = router.backbone.model.base_model if high["type"] == "lm" else router.backbone.body
    for row, each, question in zip(pooled(learner), framed, QUESTIONS, strict=True):
        assert each.end - each.begin == len(question.text), "one token per character"
        with torch.no_grad(), exact(torch.float64):
            states = body(input_ids=torch.tensor([each.ids]), use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(row, states[each.begin : each.end].mean(0))
    with torch.no_grad():
        theirs = whole.router.read(QUESTIONS).distribution.log_p_all()
        torch.testing.assert_close(router.read(QUESTIONS).distribution.log_p_all(), theirs)


def test_with_a_full_prompt_states_are_nearly_alike_and_those_of_the_questions_are_not(build: Build) -> None:
    whole = cosine(pooled(build(routing__prompt="full")))
    own = cosine(pooled(build(**OF_QUESTION)))
    centred = cosine(
        pooled(build(routing__prompt="full", routing__low_level__pooled={"of": "question", "standardised": True}))
    )
    assert whole > 0.98 > own > 0.3 > abs(centred)


def test_a_low_levels_own_backbone_reads_the_question_too(build: Build) -> None:
    shared, apart = build(**OF_QUESTION), build(**OF_QUESTION, routing__share_backbone=False)
    torch.testing.assert_close(pooled(apart), pooled(shared))


def test_standardised_over_the_training_questions(build: Build) -> None:
    found = pooled(build(**STANDARDISED))
    torch.testing.assert_close(found.mean(0), torch.zeros_like(found[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones_like(found[0]))


def test_of_many_training_questions_some_of_all_are_taken(build: Build) -> None:
    learner = build(ManyTask(), **STANDARDISED)
    taken = learner.router._training
    assert len(taken) == STANDARD
    assert [q.id for q in taken[:2]] == ["train-0", "train-2"]
    assert taken[-1].id == f"train-{2 * STANDARD - 2}"


def test_without_training_questions_there_is_nothing_to_standardise_by(build: Build) -> None:
    with pytest.raises(ConfigError, match="no training questions"):
        build(EmptyTask(), **STANDARDISED)


def test_statistics_are_of_the_start_and_kept_with_the_checkpoint(build: Build) -> None:
    """A backbone that learns moves its states; a resumed run must read them as the run did."""
    learner, other = build(**STANDARDISED), build(ManyTask(), **STANDARDISED, run__seed=1)
    start = learner.snapshot().fitted
    assert set(start) == {"pooled.mean", "pooled.deviation"}
    for _ in range(3):
        learner.update(QUESTIONS, signal(learner))
    snapshot = learner.snapshot()
    assert all(torch.equal(snapshot.fitted[name], value) for name, value in start.items())
    assert float(pooled(learner).mean(0).abs().max()) > 1e-3, "its states have not moved"
    other.restore(snapshot)
    assert torch.equal(pooled(other), pooled(learner))


def test_a_checkpoint_of_another_width_is_refused(build: Build) -> None:
    snapshot = build(**STANDARDISED).snapshot()
    narrow = {name: value[:3] for name, value in snapshot.fitted.items()}
    with pytest.raises(CheckpointError, match=r"needs (mean|deviation)"):
        build(**STANDARDISED).restore(type(snapshot)(snapshot.tensors, snapshot.state, narrow))


def signal(learner: Learner, z: tuple[str, ...] = ("llama",)) -> Rollouts:
    size = learner.router.layouts["llama"].size
    gradients = {(q, "llama"): normal(size, seed=q) for q in range(len(QUESTIONS))}
    return Rollouts(learner.version, ((z,),) * len(QUESTIONS), ((1.0,),) * len(QUESTIONS), gradients)


DROPPED: dict[str, Any] = {"routing__low_level__pooled": {"dropout": 0.4}}


def test_a_route_and_what_is_learnt_from_it_leave_out_the_same(build: Build) -> None:
    learner = build(**DROPPED)
    routes = learner.route(QUESTIONS, 4, seed=0)
    with torch.no_grad():
        reading = learner.router.read(QUESTIONS, dropout_noise(routes.version))
        for (q, name), adapter in routes.adapters.items():
            torch.testing.assert_close(learner.router.adapter_values(reading, name, [q])[0], adapter.values)
    seen: list[Tensor] = []
    learner.router.low_input.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    learner.update(QUESTIONS, signal(learner))
    assert torch.equal(seen[0], reading.pooled)
    learner.route(QUESTIONS, 4, seed=0)
    assert not torch.equal(seen[1] == 0, seen[0] == 0), "the next step leaves out the same"


def test_the_likeliest_route_leaves_out_nothing(build: Build) -> None:
    dropped, whole = build(**DROPPED).route(QUESTIONS, 0, 0), build().route(QUESTIONS, 0, 0)
    assert all(torch.equal(adapter.values, whole.adapters[key].values) for key, adapter in dropped.adapters.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({**DROPPED, "learning__route": "greedy"}, "dropout: got 0.4, but a greedy route"),
        (
            {**OF_QUESTION, "routing__backbone": {"type": "features", "features": [{"type": "tfidf"}]}},
            "of: got question, but features are of the whole prompt",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: Build, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        build(**changes)
