"""One optimiser step: where it goes, how far, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from made import normal, table
from torch import Tensor

from haps_search.config.learning import ScheduleConfig
from haps_search.engines.assembly import build_learner
from haps_search.errors import CheckpointError, Diverged, StaleUpdate
from haps_search.learning.update import Learner, learning_rate_factor
from haps_search.types import Rollouts

NAMES = ("llama", "qwen2")
QUESTIONS = DenseTask().questions("train")[:3]
FROZEN = {"routing__backbone__tuning": {"type": "frozen"}}
STATIC = {"routing__low_level": {"type": "static", "init": "xavier", "max_relative_norm": None}}
PLAIN = {"learning__schedule": {"type": "constant"}, "learning__gradient_clip": None}
Build = Callable[..., Learner]


@pytest.fixture
def build(tiny_lms: dict[str, Path]) -> Build:
    def built(**changes: Any) -> Learner:
        experiment = tiny_experiment(tiny_lms, **changes)
        return build_learner(experiment, DenseTask(), {name: table(name) for name in NAMES})

    return built


def signal(learner: Learner, advantage: float = 1.0, gradient: float = 1.0, seed: int = 0) -> Rollouts:
    """Every question took the first candidate twice; adapters of both candidates get a gradient."""
    sizes = {name: learner.router.layouts[name].size for name in learner.router.layouts}
    keys = [(q, name) for q in range(len(QUESTIONS)) for name in sizes]
    gradients = {(q, n): gradient * normal(sizes[n], seed=10 * seed + i) for i, (q, n) in enumerate(keys)}
    assignments = ((("llama",), ("llama",)),) * len(QUESTIONS)
    return Rollouts(learner.version, assignments, ((advantage, advantage),) * len(QUESTIONS), gradients)


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.clone() for name, p in learner.router.learned().items()}


def changed(before: Mapping[str, Tensor], learner: Learner) -> set[str]:
    return {name for name, p in learner.router.learned().items() if not torch.equal(p, before[name])}


def assert_same(one: Learner, other: Learner) -> None:
    a, b = one.snapshot(), other.snapshot()
    assert a.state == b.state
    assert set(a.tensors) == set(b.tensors)
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []


def log_probability(learner: Learner) -> float:
    return float(learner.router.read(QUESTIONS).distribution.log_probability([[("llama",)]] * 3).mean().detach())


def entropy(learner: Learner) -> float:
    return float(learner.router.read(QUESTIONS).distribution.entropy().mean().detach())


def taken_gradients(learner: Learner) -> dict[str, Tensor]:
    return {n: p.grad for n, p in learner.router.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("described", "step", "wanted"),
    [
        ({"type": "constant"}, 0, 1.0),
        ({"type": "constant"}, 10, 1.0),
        ({"type": "linear", "final_fraction": 0.2}, 0, 1.0),
        ({"type": "linear", "final_fraction": 0.2}, 5, 0.6),
        ({"type": "linear", "final_fraction": 0.2}, 10, 0.2),
        ({"type": "cosine", "final_fraction": 0.2}, 0, 1.0),
        ({"type": "cosine", "final_fraction": 0.2}, 5, 0.6),
        ({"type": "cosine", "final_fraction": 0.2}, 10, 0.2),
        ({"type": "cosine", "final_fraction": 0.0}, 2, 0.5 + 0.5 * math.cos(math.pi / 5)),
        ({"type": "linear", "final_fraction": 0.2}, 99, 0.2),
    ],
)
def test_learning_rate_over_eleven_steps(described: dict[str, Any], step: int, wanted: float) -> None:
    assert learning_rate_factor(ScheduleConfig(**described), step, 11) == pytest.approx(wanted)


@pytest.mark.parametrize("type", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_parts_and_ends_at_the_whole_rate(type: Any) -> None:
    config = ScheduleConfig(type=type, warmup_steps=3, final_fraction=0.5)
    factors = [learning_rate_factor(config, step, 14) for step in range(14)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[-1] == pytest.approx(1.0 if type == "constant" else 0.5)
    assert factors[3:] == sorted(factors[3:], reverse=True)


def test_a_run_of_one_step_takes_the_whole_rate() -> None:
    assert learning_rate_factor(ScheduleConfig(), 0, 1) == 1.0


def test_a_rewarded_assignment_becomes_likelier_and_a_punished_one_rarer(build: Build) -> None:
    for advantage, sign in ((1.0, 1), (-1.0, -1)):
        learner = build(learning__entropy_bonus=0.0)
        before = log_probability(learner)
        learner.update(QUESTIONS, signal(learner, advantage))
        assert sign * (log_probability(learner) - before) > 1e-4


@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_static_adapter_that_was_handed_out_stays_while_the_router_learns(build: Build, limit: float | None) -> None:
    learner = build(routing__low_level={"type": "static", "init": "xavier", "max_relative_norm": limit})
    given = learner.route(QUESTIONS, 4, seed=0).adapters
    before = {key: adapter.values.tolist() for key, adapter in given.items()}
    learner.update(QUESTIONS, signal(learner))
    after = learner.router.all_adapters(QUESTIONS)
    for key, adapter in given.items():
        (there,) = torch.stack([adapter.values]).tolist()  # what a batch of candidates does with it
        assert there == before[key] != after[key].values.tolist()


def test_without_advantage_the_choice_stays(build: Build) -> None:
    learner = build(learning__entropy_bonus=0.0, routing__low_level={"type": "none"})
    before = weights(learner)
    learner.update(QUESTIONS, signal(learner, advantage=0.0))
    assert changed(before, learner) == set()


def test_the_entropy_bonus_flattens_the_choice(build: Build) -> None:
    for bonus, gains in ((0.0, False), (0.1, True)):
        learner = build(learning__entropy_bonus=bonus, routing__low_level={"type": "none"})
        with torch.no_grad():
            learner.router.high.linear.bias[0] = 1.0
        before = entropy(learner)
        learner.update(QUESTIONS, signal(learner, advantage=0.0))
        assert (entropy(learner) > before + 1e-4) == gains


def test_a_adapter_moves_against_its_gradient(build: Build) -> None:
    learner = build(**FROZEN)
    asked = signal(learner, advantage=0.0)
    before = {key: d.values.clone() for key, d in learner.router.all_adapters(QUESTIONS).items()}
    learner.update(QUESTIONS, asked)
    after = learner.router.all_adapters(QUESTIONS)
    moved = sum(float((after[k].values - before[k]) @ g) for k, g in asked.adapter_gradients.items())
    assert moved < -1e-4


def test_the_gradient_of_a_static_adapter_is_the_sum_over_questions(build: Build) -> None:
    learner = build(**FROZEN, **STATIC, **PLAIN)
    asked = signal(learner)
    learner.update(QUESTIONS, asked)
    for name in NAMES:
        wanted = sum(asked.adapter_gradients[q, name] for q in range(3))
        torch.testing.assert_close(taken_gradients(learner)[f"low.for_{name}.values"], wanted)


def test_only_the_hypernetwork_of_a_candidate_that_spoke_learns(build: Build) -> None:
    learner = build(**FROZEN)
    asked = signal(learner)
    spoke = {key: g for key, g in asked.adapter_gradients.items() if key[1] == "llama"}
    before = weights(learner)
    learner.update(QUESTIONS, replace(asked, adapter_gradients=spoke))
    assert {name.rsplit(".", 2)[0] for name in changed(before, learner)} == {"high", "low.for_llama.mlp"}


def test_each_level_takes_its_own_learning_rate_times_the_factor(build: Build) -> None:
    """The first step of Adam is the learning rate times the gradient's sign."""
    learner = build(
        **FROZEN, **STATIC, learning__gradient_clip=None, learning__learning_rate={"high": 1e-2, "low": 1e-4},
        learning__schedule={"type": "constant", "warmup_steps": 1},
    )  # fmt: skip
    before = weights(learner)
    report = learner.update(QUESTIONS, signal(learner))
    assert report.metrics["learning_rate_factor"] == 0.5
    moved = {name: float((p - before[name]).abs().max()) for name, p in learner.router.learned().items()}
    assert moved["high.linear.bias"] == pytest.approx(0.5e-2, rel=1e-4)
    assert moved["low.for_llama.values"] == pytest.approx(0.5e-4, rel=1e-4)


def test_the_clip_bounds_the_gradient_of_all_weights_together(build: Build) -> None:
    free, clipped = build(**PLAIN), build(learning__gradient_clip=0.25)
    norms = [learner.update(QUESTIONS, signal(learner)).metrics["gradient_norm"] for learner in (free, clipped)]
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 1.0
    for learner, wanted in ((free, norms[0]), (clipped, 0.25)):
        found = math.sqrt(sum(float(g.square().sum()) for g in taken_gradients(learner).values()))
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("version", [0, 2])
def test_a_signal_of_another_version_is_refused(build: Build, version: int) -> None:
    learner = build()
    learner.update(QUESTIONS, signal(learner))
    before = weights(learner)
    with pytest.raises(StaleUpdate, match=f"version {version} reached version 1"):
        learner.update(QUESTIONS, replace(signal(learner), version=version))
    assert changed(before, learner) == set()
    assert learner.version == 1


@pytest.mark.parametrize("bad", [{"gradient": math.nan}, {"gradient": math.inf}, {"advantage": math.nan}])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(
    build: Build, bad: dict[str, float], clip: float | None
) -> None:
    learner, twin = build(learning__gradient_clip=clip), build(learning__gradient_clip=clip)
    for each in (learner, twin):
        each.update(QUESTIONS, signal(each))
    with pytest.raises(Diverged, match=r"at step 1: lower learning\.learning_rate"):
        learner.update(QUESTIONS, signal(learner, **bad))
    assert_same(learner, twin)
    for each in (learner, twin):
        each.update(QUESTIONS, signal(each, seed=1))
    assert_same(learner, twin)


@pytest.mark.parametrize("others", [0, 3])
def test_a_restored_router_takes_exactly_the_next_step(build: Build, others: int) -> None:
    whole, restored = build(), build(run__seed=1)
    for seed in range(2):
        whole.update(QUESTIONS, signal(whole, seed=seed))
    for seed in range(others):
        restored.update(QUESTIONS, signal(restored, advantage=-1.0, seed=7 + seed))
    restored.restore(whole.snapshot())
    assert_same(whole, restored)
    for learner in (whole, restored):
        learner.update(QUESTIONS, signal(learner, advantage=-0.5, seed=2))
    assert_same(whole, restored)
    assert whole.version == 3


def test_back_to_a_snapshot_without_moments(build: Build) -> None:
    learner, fresh = build(), build()
    start = learner.snapshot()
    learner.update(QUESTIONS, signal(learner))
    learner.restore(start)
    for each in (learner, fresh):
        each.update(QUESTIONS, signal(each, seed=1))
    assert_same(learner, fresh)


def test_a_snapshot_does_not_follow_the_router(build: Build) -> None:
    learner = build()
    learner.update(QUESTIONS, signal(learner))
    taken = learner.snapshot()
    kept = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    learner.update(QUESTIONS, signal(learner))
    learner.restore(taken)
    learner.update(QUESTIONS, signal(learner))
    assert [name for name, tensor in taken.tensors.items() if not torch.equal(tensor, kept[name])] == []


def test_a_snapshot_holds_the_moments_of_all_that_learned(build: Build) -> None:
    learner = build(**FROZEN, **STATIC)
    learner.update(QUESTIONS, signal(learner))
    names = set(learner.snapshot().tensors)
    assert {n for n in names if n.startswith("router.")} == {f"router.{n}" for n in learner.router.learned()}
    assert sum(n.endswith("exp_avg_sq") for n in names) == len(learner.router.learned())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"routing__low_level": {"type": "none"}}, "low.for_llama"),
        ({"routing__low_level": {"type": "generated", "hidden": [8]}}, "mlp.0"),
        (FROZEN, "backbone"),
    ],
    ids=["no low level", "another width", "frozen backbone"],
)
def test_the_snapshot_of_another_router_is_refused(build: Build, changes: dict[str, Any], named: str) -> None:
    learner, other = build(), build(**changes)
    for one, foreign in ((learner, other), (other, learner)):
        before = weights(one)
        with pytest.raises(CheckpointError, match=rf"belongs to another router: .*{named}"):
            one.restore(foreign.snapshot())
        assert changed(before, one) == set()


def test_a_router_that_learns_nothing_counts_its_versions(build: Build) -> None:
    learner = build(
        **FROZEN, routing__low_level={"type": "none"}, routing__high_level={"type": "random"}
    )  # fmt: skip
    report = learner.update(QUESTIONS, signal(learner))
    assert (report.version, report.metrics, learner.version) == (1, {"routing_prompts_cut": 0.0}, 1)
    assert learner.snapshot().tensors == {}
    learner.restore(learner.snapshot())


def test_the_architecture_loss_is_the_mean_of_advantage_and_surprise(build: Build) -> None:
    learner = build()
    report = learner.update(QUESTIONS, signal(learner, advantage=0.5))
    assert report.metrics["architecture_loss"] == pytest.approx(0.5 * math.log(2))


def test_a_signal_one_update_old_gives_the_gradient_at_the_weights_that_routed_it(build: Build) -> None:
    late, reference = build(run__staleness=1, **PLAIN), build(**PLAIN)
    first, second = signal(late, seed=1), signal(late, seed=2)
    late.update(QUESTIONS, first)
    present = late.snapshot()
    report = late.update(QUESTIONS, second)  # made by version 0, reaches version 1
    reference.update(QUESTIONS, second)
    wanted = taken_gradients(reference)
    assert wanted
    for name, gradient in taken_gradients(late).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-12)
    assert (report.version, report.metrics["staleness"]) == (2, 1.0)

    by_hand = build(**PLAIN)
    by_hand.restore(present)
    for name, p in by_hand.router.named_parameters():
        p.grad = wanted.get(name)
    by_hand._take_step(by_hand._optimiser)  # type: ignore[arg-type]
    for name, p in late.router.learned().items():
        torch.testing.assert_close(p, by_hand.router.learned()[name], rtol=1e-9, atol=1e-12)

    afresh = build(**PLAIN)
    afresh.update(QUESTIONS, first)
    afresh.update(QUESTIONS, replace(second, version=1))
    assert any(not torch.equal(g, wanted[name]) for name, g in taken_gradients(afresh).items())


def test_a_signal_two_updates_old_is_refused_and_so_is_one_of_the_day_before_a_restore(build: Build) -> None:
    learner = build(run__staleness=1)
    old = signal(learner)
    learner.update(QUESTIONS, old)
    saved = learner.snapshot()
    learner.update(QUESTIONS, signal(learner))
    with pytest.raises(StaleUpdate):
        learner.update(QUESTIONS, old)
    learner.restore(saved)
    with pytest.raises(StaleUpdate):
        learner.update(QUESTIONS, old)
