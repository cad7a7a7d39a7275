"""The router as the rest sees it, its prompt, and the backbone it reads with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from made import NumberTask, question, table

from haps_search.config.routing import BackboneConfig, RoutingConfig
from haps_search.engines.assembly import build_learner
from haps_search.errors import ConfigError
from haps_search.routing.backbone import Backbone
from haps_search.routing.prompt import RoutingPrompt
from haps_search.routing.router import Router, users
from haps_search.types import CandidateCard, Role

QUESTIONS = [question("a", "add 1+2="), question("b", "reverse kado="), question("c", "sort zab=")]
TEXTS = ["hello", "a much longer text than the others", "ab"]
Build = Callable[..., Router]


@pytest.fixture
def build(tiny_lms: dict[str, Path]) -> Build:
    def built(roles: int = 1, names: tuple[str, ...] = ("llama", "qwen2"), **changes: Any) -> Router:
        source = {"type": "path", "path": str(tiny_lms["llama"])}
        candidates = [{"name": n, "source": source, "dtype": "float64", "device": "cpu"} for n in names]
        experiment = tiny_experiment(tiny_lms, candidates=candidates, **changes)
        return build_learner(experiment, NumberTask(roles), {n: table(n) for n in names}).router

    return built


@pytest.fixture
def backbone(tiny_lms: dict[str, Path]) -> Callable[..., Backbone]:
    def built(**described: Any) -> Backbone:
        source = {"type": "path", "path": str(tiny_lms["mistral"])}
        config = {"source": source, "dtype": "float64", "device": "cpu", **described}
        return Backbone.load(BackboneConfig.model_validate(config))

    return built


def test_the_full_prompt_names_task_roles_candidates_and_question() -> None:
    roles = (Role("teacher", "explains"), Role("student", "answers"))
    cards = (CandidateCard("small", "quick"), CandidateCard("large"))
    prompt = RoutingPrompt("full", "Answer.", roles, cards)
    wanted = (
        "Task: Answer.\nRoles:\n- teacher: explains\n- student: answers\nCandidates:\n- small: quick\n- large: \n"
        "Question: Why {this}?"
    )
    assert prompt.render([question(text="Why {this}?"), question(text="?")])[0] == wanted


def test_the_question_prompt_is_the_question() -> None:
    prompt = RoutingPrompt("question", "Answer.", (Role("r", "d"),), (CandidateCard("m"),))
    assert prompt.render(QUESTIONS) == [q.text for q in QUESTIONS]


def test_users_are_the_questions_of_which_some_episode_uses_a_candidate() -> None:
    drawn = [[("a", "b"), ("a", "a")], [("b", "b"), ("b", "b")], [("c", "a"), ("b", "c")]]
    assert dict(users(drawn, {"a": 0, "b": 0, "c": 0, "d": 0})) == {"a": [0, 2], "b": [0, 1, 2], "c": [2]}
    assert dict(users(drawn, {"b": 0})) == {"b": [0, 1, 2]}


def test_a_route_follows_from_its_seed(build: Build) -> None:
    router = build()
    first, same, other = (router.route(QUESTIONS, 16, seed, version=3) for seed in (1, 1, 2))
    assert first.assignments == same.assignments
    assert first.assignments != other.assignments
    assert first.version == 3
    assert all(torch.equal(first.adapters[key].values, d.values) for key, d in same.adapters.items())


def test_a_route_leaves_the_global_randomness_alone(build: Build) -> None:
    before = torch.get_rng_state()
    build().route(QUESTIONS, 4, 1, version=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_follow_from_the_seed_of_the_run(build: Build) -> None:
    first, same, other = (build(run__seed=seed).learned() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], tensor) for name, tensor in same.items())
    assert any(not torch.equal(first[name], tensor) for name, tensor in other.items())


def test_each_candidate_that_is_used_has_one_adapter_per_question_and_no_other_has(build: Build) -> None:
    router = build(roles=2, names=("a", "b", "c"))
    routes = router.route(QUESTIONS, 2, 5, version=0)
    used = {(q, name) for q, row in enumerate(routes.assignments) for z in row for name in z}
    assert set(routes.adapters) == used
    assert len(used) < 9
    everyone = router.all_adapters(QUESTIONS)
    assert set(everyone) == {(q, name) for q in range(3) for name in "abc"}
    for key, adapter in routes.adapters.items():
        assert adapter.layout == router.layouts[key[1]]
        torch.testing.assert_close(adapter.values, everyone[key].values)


def test_reported_probabilities_are_those_of_the_marginals(build: Build) -> None:
    router = build(roles=2, names=("a", "b", "c"))
    with torch.no_grad():
        router.high.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    routes = router.route(QUESTIONS, 3, 5, version=0)
    for row, log_ps, marginals in zip(routes.assignments, routes.log_probabilities, routes.marginals, strict=True):
        assert [sum(role) for role in marginals] == pytest.approx([1.0, 1.0])
        for z, log_p in zip(row, log_ps, strict=True):
            product = marginals[0]["abc".index(z[0])] * marginals[1]["abc".index(z[1])]
            assert torch.tensor(log_p).exp().item() == pytest.approx(product, rel=1e-5)


def test_no_episodes_means_the_likeliest_assignment(build: Build) -> None:
    router = build(names=("a", "b", "c"))
    with torch.no_grad():
        router.high.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    routes = router.route(QUESTIONS, 0, 9, version=0)
    likeliest = ["abc"[max(range(3), key=role.__getitem__)] for (role,) in routes.marginals]
    assert routes.assignments == tuple(((name,),) for name in likeliest)


def test_architecture_only_has_no_adapters(build: Build) -> None:
    router = build(routing__low_level={"type": "none"})
    assert router.route(QUESTIONS, 4, 0, version=0).adapters == {}
    assert router.all_adapters(QUESTIONS) == {}


def test_a_candidate_may_be_named_like_a_part_of_a_module(build: Build) -> None:
    names = ("half", "Qwen2.5-0.5B", "Qwen2-5-0-5B")
    assert {name for _, name in build(names=names).all_adapters(QUESTIONS)} == set(names)


def test_targets_a_candidate_lacks_are_refused_by_its_name(build: Build) -> None:
    with pytest.raises(ConfigError, match="candidate llama"):
        build(routing__lora__targets=["k_proj"])


def test_a_pooled_state_does_not_depend_on_batch_mates(backbone: Callable[..., Backbone]) -> None:
    read = backbone()
    together = read(TEXTS)
    assert together.shape == (3, read.width)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(together[row], read([text])[0], rtol=1e-12, atol=1e-12)
    assert torch.unique(together.detach(), dim=0).shape[0] == 3


def test_a_long_prompt_keeps_its_end_and_is_counted(backbone: Callable[..., Backbone]) -> None:
    read = backbone(max_tokens=6)
    long, short = read(["0123456789", "abcdef"])
    torch.testing.assert_close(long, backbone()(["456789"])[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(short, backbone()(["abcdef"])[0], rtol=1e-12, atol=1e-12)
    assert read.truncated(["0123456789", "abcdef"]) == 1


@pytest.mark.parametrize("texts", [[""], ["", "full"]])
def test_a_prompt_without_tokens_is_refused(backbone: Callable[..., Backbone], texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="reads nothing"):
        backbone()(texts)


def test_lora_tuning_trains_its_own_weights_only(backbone: Callable[..., Backbone]) -> None:
    read = backbone(tuning={"type": "lora", "rank": 2, "targets": ["q_proj"]})
    learns = {name for name, p in read.named_parameters() if p.requires_grad}
    assert len(learns) == 4
    assert all(".q_proj.lora_" in name for name in learns)
    read(TEXTS).sum().backward()
    assert {name for name, p in read.named_parameters() if p.grad is not None} == learns


def test_fresh_lora_reads_as_the_frozen_backbone_does(backbone: Callable[..., Backbone]) -> None:
    torch.testing.assert_close(backbone(tuning={"type": "lora"})(TEXTS), backbone()(TEXTS), rtol=1e-12, atol=1e-12)


def test_lora_targets_that_do_not_exist_are_refused(backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(ConfigError, match=r"routing\.backbone\.tuning\.targets: .*nothing_proj"):
        backbone(tuning={"type": "lora", "targets": ["nothing_proj"]})


def test_a_frozen_backbone_gives_no_gradient(backbone: Callable[..., Backbone]) -> None:
    read = backbone(tuning={"type": "frozen"})
    assert not read(TEXTS).requires_grad
    assert not any(p.requires_grad for p in read.parameters())


def test_full_tuning_trains_every_weight(backbone: Callable[..., Backbone]) -> None:
    read = backbone()
    read(TEXTS).square().sum().backward()
    assert [name for name, p in read.named_parameters() if p.grad is None] == []


def test_a_lower_precision_backbone_feeds_float32_heads(backbone: Callable[..., Backbone]) -> None:
    read = backbone(dtype="bfloat16")
    assert read.head_dtype == read(TEXTS).dtype == torch.float32


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ({"type": "random"}, {"type": "generated"}),
        ({"type": "fixed", "assignment": ["a"]}, {"type": "generated"}),
        ({"type": "head"}, {"type": "none"}),
        ({"type": "lm"}, {"type": "static"}),
    ],
)
def test_a_second_backbone_that_nothing_would_read_is_refused(high: dict[str, Any], low: dict[str, Any]) -> None:
    described = {"high_level": high, "low_level": low}
    RoutingConfig.model_validate(described)
    with pytest.raises(ValueError, match=f"share_backbone: false with high level {high['type']}"):
        RoutingConfig.model_validate({**described, "share_backbone": False})


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_a_character_lm_that_ships_can_score_assignments(build: Build, tuning: str) -> None:
    backbone = {"source": {"type": "zoo", "name": "adder"}, "device": "cpu", "tuning": {"type": tuning}}
    router = build(roles=2, routing__prompt="full", routing__backbone=backbone, routing__high_level={"type": "lm"})
    routes = router.route(QUESTIONS, 4, 0, version=0)
    assert [sum(role) for row in routes.marginals for role in row] == pytest.approx([1.0] * 6, abs=1e-5)
    assert router.high.learns == (tuning == "full")
    assert router.truncated(QUESTIONS) == 0
    assert set(routes.adapters) == {(q, name) for q, row in enumerate(routes.assignments) for z in row for name in z}
