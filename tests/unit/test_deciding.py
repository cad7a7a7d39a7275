"""Whom a router would ask, told or not told what cost weighs; and the verbs that say it."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from replays import MODELS, replay_experiment, row, skilled, write_table
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.records.run_folder import RunFolder
from haps_search.search.deciding import decide
from haps_search.search.loop import run
from haps_search.tasks.build import build_task
from haps_search.types import Question

ASKED = [Question("new", "never seen", "")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path / "cache"))


def two_models(file: Path, costs: bool = True, **learning: Any) -> Experiment:
    """`dear` costs 2, `cheap` 0.5, so their prices are 1 and 0.25."""
    paid = {"cost": {"dear": 2.0, "cheap": 0.5}} if costs else {}
    rows = [row(f"q{i}", f"text {i}", {"dear": 1.0, "cheap": 0.5}, **paid) for i in range(80)]
    changes = {f"learning__{name}": value for name, value in learning.items()}
    return replay_experiment(write_table(file, rows), ("dear", "cheap"), **changes)


def chosen(experiment: Experiment, weight: float | None, advantage: float = 0.0) -> str:
    """By a router for which log p(dear) - log p(cheap) is `advantage`, and the weight it is told, if any."""
    task = build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)
    high = engine._learner.router.high.linear  # type: ignore[union-attr]
    with torch.no_grad():
        high.bias.copy_(torch.tensor([advantage, 0.0]))
        if experiment.learning.cost_conditioned is not None:
            high.weight[0, -1] = -1.0  # the weight of cost, from -1 to 1, counts against `dear`
    (decision,) = asyncio.run(decide(engine, task, ASKED, experiment, weight))
    assert math.fsum(decision.probabilities[0].values()) == pytest.approx(1)
    return decision.assignment[0]


@pytest.mark.parametrize("loss", ["squared_error", "soft_targets"])
def test_predicted_rewards_are_set_against_prices(tmp_path: Path, loss: str) -> None:
    """0.5 * 0.2 = 0.1 more reward for 0.75 more price: worth it below a weight of 0.1333."""
    experiment = two_models(tmp_path / "t.jsonl", outcome_loss={"type": loss, "temperature": 0.2})
    assert [chosen(experiment, w, advantage=0.5) for w in (None, 0.0, 0.13, 0.14)] == ["dear", "dear", "dear", "cheap"]


def test_what_cost_weighed_in_training_is_not_set_against_prices_again(tmp_path: Path) -> None:
    """Learnt at 0.1, its log p is net of that; 0.05 more of it pays for 0.75 more price up to 0.0667 more weight."""
    experiment = two_models(
        tmp_path / "t.jsonl", outcome_loss={"type": "squared_error", "temperature": 0.2}, cost_weight=0.1
    )
    weights = (0.1, 0.16, 0.17, 0.0)
    assert [chosen(experiment, w, advantage=0.25) for w in weights] == ["dear", "dear", "cheap", "dear"]
    assert [chosen(experiment, w, advantage=-0.25) for w in (0.1, 0.04, 0.03)] == ["cheap", "cheap", "dear"]


def test_a_router_that_is_told_the_weight_decides_by_it(tmp_path: Path) -> None:
    experiment = two_models(tmp_path / "t.jsonl", cost_conditioned={"low": 0.01, "high": 1.0})
    assert [chosen(experiment, weight) for weight in (0.02, 0.5)] == ["dear", "cheap"]
    assert chosen(experiment, 0.0) == "dear", "below the lowest weight it is the lowest"
    with pytest.raises(ConfigError, match=r"got 2, this router knows 0\.01 to 1\.0"):
        chosen(experiment, 2.0)


def test_a_weight_that_means_nothing_is_refused(tmp_path: Path) -> None:
    ranking = two_models(tmp_path / "t.jsonl", outcome_loss={"type": "pairwise"})
    with pytest.raises(ConfigError, match="preferences are no rewards"):
        chosen(ranking, 0.1)
    with pytest.raises(ConfigError, match="learnt by rollouts, high level head"):
        chosen(two_models(tmp_path / "r.jsonl", signal="rollouts"), 0.1)
    with pytest.raises(ConfigError, match="whose table has costs"):
        chosen(two_models(tmp_path / "u.jsonl", costs=False), 0.1)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run that learnt which words belong to which model."""
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl"), task__task_name=False)
    engine, task = LocalEngine.build(experiment, build_task(experiment.task)), build_task(experiment.task)
    asyncio.run(run(engine, task, experiment, RunFolder(tmp_path / "run", experiment)))
    return tmp_path / "run"


def test_a_file_of_questions_is_routed_and_nobody_is_asked(trained: Path, tmp_path: Path) -> None:
    texts = ["add abc and def", "turn abc def around", "put abc def in order"]
    asked, out = tmp_path / "asked.jsonl", tmp_path / "there" / "routes.jsonl"
    asked.write_text("".join(json.dumps({"id": f"n{i}", "question": text}) + "\n" for i, text in enumerate(texts)))
    done = CliRunner().invoke(app, ["route", str(trained), "--questions", str(asked), "-o", str(out)])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["question"]) for line in lines] == [(f"n{i}", text) for i, text in enumerate(texts)]
    assert [line["assignment"] for line in lines] == [[name] for name in MODELS]
    for line in lines:
        (chances,) = line["probabilities"]
        assert max(chances, key=chances.get) == line["assignment"][0]
    assert "33.3%  adder" in done.output


def test_one_question_is_routed_and_the_table_s_models_are_not_asked(trained: Path) -> None:
    done = CliRunner().invoke(app, ["ask", str(trained), "turn abc def around"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("answerer: reverser (adder 0.")
    assert "frozen" not in done.output


def test_a_task_s_name_is_read_as_the_table_s_are(tmp_path: Path) -> None:
    task = build_task(replay_experiment(skilled(tmp_path / "t.jsonl"), task__task_name=True).task)
    own = task.questions("train")[0]
    bare = Question("new", own.text.partition("\n\n")[2], "", "", {"task": "all"})
    assert task.worded(bare).text == own.text  # type: ignore[attr-defined]
    assert task.worded(Question("new", "x", "")).text == "x"  # type: ignore[attr-defined]
