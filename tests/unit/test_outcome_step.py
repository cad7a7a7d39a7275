"""A step on whole rows: the gradient is the expectation's, costs and task means weigh as documented."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from replays import MODELS, replay_experiment, row, skilled, write_table

from haps_search.config.learning import CostRange, LearningConfig
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.learning.known import said, weighted, worth
from haps_search.routing.features_backbone import COST_WEIGHT
from haps_search.search.loop import batch
from haps_search.search.outcome_step import expected, outcome_metrics, outcome_step
from haps_search.search.outcome_validation import likeliest, score_known
from haps_search.tasks.build import build_task
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.task import KnownOutcomes
from haps_search.types import Routes

NAN = float("nan")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path / "cache"))


def test_the_update_is_the_gradient_of_the_expected_reward(tmp_path: Path) -> None:
    """By brute force: sum over questions and candidates of p(z|x) R(x, z), by finite differences of the head."""
    experiment = replay_experiment(
        skilled(tmp_path / "t.jsonl", 90), learning__entropy_bonus=0.0, learning__gradient_clip=None
    )
    task = build_task(experiment.task)
    assert isinstance(task, ReplayTask)
    engine = LocalEngine.build(experiment, task)
    router = engine._learner.router
    with torch.no_grad():
        for parameter in router.high.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    questions = batch(task.questions("train"), experiment, 0)

    def value() -> float:
        total = 0.0
        for question in questions:
            p = router.read([question]).distribution.log_p_all()[0].exp()
            for k, name in enumerate(MODELS):
                total += p[k].item() * float(task.table.rewards[task.place[question.id], task.column(name)])
        return total / len(questions)

    weight = router.high.linear.weight  # type: ignore[union-attr]
    numeric = []
    for at in ((0, 0), (1, 3), (2, 5)):
        held = weight[at].item()
        values = []
        for step in (0.05, -0.05):
            with torch.no_grad():
                weight[at] = held + step
            values.append(value())
        with torch.no_grad():
            weight[at] = held
        numeric.append((values[0] - values[1]) / 0.1)
    metrics = asyncio.run(outcome_step(engine, task, questions, experiment, 0))
    assert weight.grad is not None
    found = [-float(weight.grad[at]) for at in ((0, 0), (1, 3), (2, 5))]
    np.testing.assert_allclose(found, numeric, rtol=0.02, atol=1e-5)
    with_old = metrics["reward"]
    assert value() > with_old, "a step along the gradient must gain"


def test_worth_by_hand() -> None:
    known = KnownOutcomes(
        rewards=np.array([[1.0, NAN, 0.5], [0.0, 1.0, 0.5]], np.float32),
        task_means=np.array([[0.5, 0.2, 0.1], [0.4, 0.6, 0.1]]),
        costs=np.array([[1.0, 0.5, NAN], [0.1, 0.2, 0.4]], np.float32),
    )
    np.testing.assert_allclose(worth(known, np.zeros(2)), known.rewards)
    np.testing.assert_allclose(worth(known, np.zeros(2), 0.5), [[0.75, NAN, 0.3], [0.2, 0.8, 0.3]])
    np.testing.assert_allclose(worth(known, np.array([0.5, 2.0])), [[0.5, NAN, NAN], [-0.2, 0.6, -0.3]], atol=1e-6)


def test_cost_that_weighs_without_costs_is_refused() -> None:
    known = KnownOutcomes(np.ones((1, 2), np.float32), np.ones((1, 2)), None)
    with pytest.raises(ConfigError, match="the table has no costs"):
        worth(known, np.ones(1))


def test_weights_are_drawn_from_their_range_by_seed_and_said_to_the_router(tmp_path: Path) -> None:
    task = build_task(replay_experiment(skilled(tmp_path / "t.jsonl")).task)
    questions = task.questions("train")
    learning = LearningConfig(cost_conditioned=CostRange(low=0.01, high=1.0))
    asked, weights = weighted(questions, learning, 3)
    assert [q.attributes[COST_WEIGHT] for q in asked] == weights.tolist()
    assert (weights >= 0.01).all()
    assert (weights <= 1.0).all()
    assert abs((weights < 0.1).mean() - 0.5) < 0.12, "not uniform in the logarithm"
    np.testing.assert_array_equal(weighted(questions, learning, 3)[1], weights)
    assert (weighted(questions, learning, 4)[1] != weights).any()
    plain, constant = weighted(questions, LearningConfig(cost_weight=0.3), 3)
    assert plain == list(questions)
    assert set(constant) == {0.3}


def test_expectations_and_choices_know_no_missing_cell() -> None:
    chances = np.array([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0]])
    rewards = np.array([[NAN, 1.0, 0.0], [NAN, 1.0, 0.0]])
    np.testing.assert_allclose(expected(chances, rewards), [0.75, 0.5])
    assert likeliest(chances, rewards).tolist() == [1, 1]


def test_metrics_by_hand() -> None:
    experiment = replay_experiment(Path("nowhere"), ("a", "b"))
    routes = Routes(0, (), (), (((0.75, 0.25),), ((0.25, 0.75),)), {})
    measured = outcome_metrics(routes, np.array([[1.0, 0.0], [1.0, NAN]]), experiment)
    assert measured["reward"] == pytest.approx((0.75 + 1.0) / 2)
    assert measured["share/a"] == 0.5
    assert measured["missing_cells"] == 1
    assert measured["route_entropy"] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert measured["route_collapse"] == 0
    sure = Routes(0, (), (), (((1.0, 0.0),),) * 4, {})
    assert outcome_metrics(sure, np.ones((4, 2)), experiment)["route_collapse"] == 1


def test_validation_is_over_known_cells_and_costs_are_the_tables_own(tmp_path: Path) -> None:
    rows = [
        row(f"q{i}", f"text {i}", {"a": None if i % 2 else 1.0, "b": 0.5}, cost={"a": 2.0, "b": 0.5}) for i in range(80)
    ]
    experiment = replay_experiment(
        write_table(tmp_path / "t.jsonl", rows), ("a", "b"), learning__cost_weight=0.1, learning__entropy_bonus=0.0
    )
    task = build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)
    with torch.no_grad():
        engine._learner.router.high.linear.bias.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[union-attr]
    questions = task.questions("validation")
    scored, metrics = asyncio.run(score_known(engine, task, questions, experiment))
    gaps = np.array([int(q.id[1:]) % 2 for q in questions], bool)
    assert scored.rewards == tuple(0.5 if gap else 1.0 for gap in gaps)
    assert metrics["validation_cost"] == pytest.approx(np.where(gaps, 0.5, 2.0).mean())
    # a costs 1 in units of the dearest model, b a quarter of it.
    assert metrics["validation_utility"] == pytest.approx(np.where(gaps, 0.5 - 0.025, 1 - 0.1).mean())


def test_a_weight_that_is_said_reaches_the_router(tmp_path: Path) -> None:
    file = skilled(tmp_path / "t.jsonl", costs=(1, 2, 3))
    experiment = replay_experiment(file, learning__cost_conditioned={"low": 0.01, "high": 1.0})
    task = build_task(experiment.task)
    backbone = LocalEngine.build(experiment, task)._learner.router.backbone
    questions = task.questions("train")[:3]
    asked = [said(questions[0], 0.01), said(questions[1], 0.1), questions[2]]
    states = backbone([q.text for q in asked], asked, None)
    np.testing.assert_allclose(states[:, -1], [-1, 0, -1], atol=1e-6)
