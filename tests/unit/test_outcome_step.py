"""A step on whole rows: the gradient is the expectation's, costs and task means weigh as documented."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from replays import MODELS, replay_experiment, row, skilled, write_table

from haps_search.config.learning import COST_WEIGHT, CostRange, LearningConfig
from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.learning.utility import utility, weighted, with_cost_weight
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import batch, run
from haps_search.search.outcome_step import expected, likeliest, outcome_metrics, outcome_step, score_known
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


def test_utility_by_hand() -> None:
    known = KnownOutcomes(
        rewards=np.array([[1.0, NAN, 0.5], [0.0, 1.0, 0.5]], np.float32),
        task_means=np.array([[0.5, 0.2, 0.1], [0.4, 0.6, 0.1]]),
        costs=np.array([[1.0, 0.5, NAN], [0.1, 0.2, 0.4]], np.float32),
    )
    np.testing.assert_allclose(utility(known, np.zeros(2)), known.rewards)
    np.testing.assert_allclose(utility(known, np.zeros(2), 0.5), [[0.75, NAN, 0.3], [0.2, 0.8, 0.3]])
    np.testing.assert_allclose(utility(known, np.array([0.5, 2.0])), [[0.5, NAN, NAN], [-0.2, 0.6, -0.3]], atol=1e-6)


def test_cost_that_weighs_without_costs_is_refused() -> None:
    known = KnownOutcomes(np.ones((1, 2), np.float32), np.ones((1, 2)), None)
    with pytest.raises(ConfigError, match="the table has no costs"):
        utility(known, np.ones(1))


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


def two_models(file: Path, costs: bool = True, **changes: object) -> Experiment:
    """`dear` earns 1 and costs 2, `cheap` earns 0.5 and costs 0.5; their text says nothing."""
    paid = {"cost": {"dear": 2.0, "cheap": 0.5}} if costs else {}
    rows = [row(f"q{i}", f"text {i}", {"dear": 1.0, "cheap": 0.5}, **paid) for i in range(80)]
    return replay_experiment(write_table(file, rows), ("dear", "cheap"), **changes)


def preferring(experiment: Experiment, log_p: list[float]) -> tuple[LocalEngine, ReplayTask]:
    task = build_task(experiment.task)
    assert isinstance(task, ReplayTask)
    engine = LocalEngine.build(experiment, task)
    with torch.no_grad():
        engine._learner.router.high.linear.bias.copy_(torch.tensor(log_p))  # type: ignore[union-attr]
    return engine, task


@pytest.mark.parametrize(("log_p", "wanted"), [([1.0, 0.0], 0.75), ([0.0, 1.0], 0.5)])
def test_aiq_of_a_router_is_the_area_under_what_it_can_be_swept_to(
    tmp_path: Path, log_p: list[float], wanted: float
) -> None:
    """Costs are 1 and 1/4 in units of the dearest. Swept from dear to cheap the hull is a line from 0.5 to 1; a router
    that would rather ask the cheap one never asks the other."""
    experiment = two_models(tmp_path / "t.jsonl")
    engine, task = preferring(experiment, log_p)
    _, metrics = asyncio.run(score_known(engine, task, task.questions("validation"), experiment))
    assert metrics["validation_aiq"] == pytest.approx(wanted)
    assert metrics["validation_aiq0"] == pytest.approx(wanted), "the cheap one earns most per cost"


def test_the_best_step_is_the_best_in_what_the_run_asks_for(tmp_path: Path) -> None:
    """Where cost weighs the cheap model is worth more, and by AIQ the router that can ask both is better."""
    best = {}
    for measure in ("utility", "aiq", "aiq0"):
        changes = {"run__validation": {"every": 1, "questions": 80, "best": measure}, "run__steps": 30}
        experiment = two_models(tmp_path / "t.jsonl", learning__cost_weight=1.0, **changes)
        engine, task = preferring(experiment, [0.5, 0.0])  # asks `dear` first, `cheap` after some steps
        result = asyncio.run(run(engine, task, experiment, RunFolder(tmp_path / measure, experiment)))
        best[measure] = result.best_step
        metrics = read_records(tmp_path / measure / "metrics.jsonl")
        assert [max(r.metrics[f"validation_{measure}"] for r in metrics)] == [result.metrics[f"validation_{measure}"]]
    assert best["aiq"] == best["aiq0"] == 1 < best["utility"]


@pytest.mark.parametrize("measure", ["aiq", "aiq0"])
def test_aiq_without_costs_is_refused(tmp_path: Path, measure: str) -> None:
    changes = {"run__validation": {"every": 20, "questions": 80, "best": measure}}
    experiment = two_models(tmp_path / "t.jsonl", costs=False, **changes)
    engine, task = preferring(experiment, [0.0, 0.0])
    with pytest.raises(ConfigError, match="the table has no costs"):
        asyncio.run(score_known(engine, task, task.questions("validation"), experiment))
    with pytest.raises(ValueError, match=rf"{measure} needs learning\.signal: outcomes"):
        two_models(tmp_path / "t.jsonl", learning__signal="rollouts", **changes)


def test_a_weight_that_is_said_reaches_the_router(tmp_path: Path) -> None:
    file = skilled(tmp_path / "t.jsonl", costs=(1, 2, 3))
    experiment = replay_experiment(file, learning__cost_conditioned={"low": 0.01, "high": 1.0})
    task = build_task(experiment.task)
    backbone = LocalEngine.build(experiment, task)._learner.router.backbone
    questions = task.questions("train")[:3]
    asked = [with_cost_weight(questions[0], 0.01), with_cost_weight(questions[1], 0.1), questions[2]]
    states = backbone([q.text for q in asked], asked, None)
    np.testing.assert_allclose(states[:, -1], [-1, 0, -1], atol=1e-6)
