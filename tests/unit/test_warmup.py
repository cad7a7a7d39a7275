"""Warm-up: what a table says in the router's order, what is held out, and how far the high level gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from made import question
from warmups import NAMES, PAYS, skills_experiment, skills_table, table

from haps_search.config.learning import LearningConfig
from haps_search.config.run import Experiment
from haps_search.engines.assembly import build_learner
from haps_search.errors import CheckpointError, ConfigError, DataError
from haps_search.evaluation.warmup_table import best_single, warmup_rows
from haps_search.learning.from_tables import Scores, TaughtRows, held_out_split, scores, taught_rows
from haps_search.learning.update import Learner
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.stages import RunResult
from haps_search.tasks.build import build_task
from haps_search.types import Question
from haps_search.verbs.warmup import claim, warm_up, warmup_experiment

NAN = math.nan
LEARNING = LearningConfig()


def asked(count: int) -> list[Question]:
    return [question(f"q{i}", f"question {i}") for i in range(count)]


def test_rewards_stand_in_the_routers_order() -> None:
    made = table(asked(2), [("b", "a"), ("a", "a"), ("a", "c")], [[0.1, 0.2, 0.9], [0.3, NAN, 0.9]])
    rows = taught_rows(made, ("a", "b"), 2, LEARNING)
    np.testing.assert_allclose(rows.rewards, [[0.2, NAN, 0.1, NAN], [NAN, NAN, 0.3, NAN]], rtol=1e-6)
    assert rows.left_out == ("1 assignments of candidates that the study does not have",)


def test_test_questions_and_empty_ones_are_left_out_and_counted() -> None:
    rewards = [[1.0, 0.0], [NAN, NAN], [0.0, 1.0]]
    rows = taught_rows(table(asked(3), [("a",), ("b",)], rewards, splits=["test", None, "train"]), "ab", 1, LEARNING)
    assert [q.id for q in rows.questions] == ["q2"]
    assert rows.rewards.tolist() == [[0.0, 1.0]]
    assert rows.left_out == ("1 questions of the test split", "1 questions without a known reward")


def test_costs_are_taken_off_at_their_weight() -> None:
    made = table(asked(1), [("a",), ("b",)], [[1.0, 0.75]], costs=[[0.5, 0.25]])
    assert taught_rows(made, "ab", 1, LearningConfig(cost_weight=2.0)).rewards.tolist() == [[0.0, 0.25]]
    free = table(asked(1), [("a",), ("b",)], [[1.0, 0.75]])
    with pytest.raises(ConfigError, match="cost_weight: got 2, but the table has no costs"):
        taught_rows(free, "ab", 1, LearningConfig(cost_weight=2.0))


@pytest.mark.parametrize(
    ("names", "roles", "said"),
    [
        ("abd", 1, r"no rewards of d; the study has a, b, d, the table a, b"),
        ("ab", 2, r"2 roles, but the table's assignments have 1"),
        (["a", "b", *map(str, range(4095))], 1, r"are 4097 assignments, warm-up takes at most 4096"),
    ],
)
def test_a_table_of_another_study_is_refused(names: Sequence[str], roles: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        taught_rows(table(asked(1), [("a",), ("b",)], [[1.0, 0.0]]), names, roles, LEARNING)


def test_what_is_held_out_follows_from_the_text_alone() -> None:
    texts = [f"What is {i}?" for i in range(200)] + ["what  is 3", "WHAT IS 4?"]
    rows = TaughtRows(tuple(question(str(i), t) for i, t in enumerate(texts)), np.arange(202.0)[:, None])
    train, aside = held_out_split(rows, 0.2)
    ids = {q.id for q in aside.questions}
    assert 25 < len(ids) < 55
    assert {q.id for q in train.questions} == {q.id for q in rows.questions} - ids
    assert ("3" in ids, "4" in ids) == ("200" in ids, "201" in ids)
    assert [float(q.id) for q in aside.questions] == aside.rewards[:, 0].tolist()
    backwards = held_out_split(rows.part(range(201, -1, -1)), 0.2)[1]
    assert {q.id for q in backwards.questions} == ids
    with pytest.raises(DataError, match="1 questions leave"):
        held_out_split(rows.part([0]), 0.2)


def fixed(p: Sequence[Sequence[float]]) -> Learner:
    """A learner that reads the first questions as these distributions."""

    def read(questions: Sequence[Question]) -> Any:
        log_p = torch.tensor(p, dtype=torch.float64).log()[: len(questions)]
        return SimpleNamespace(distribution=SimpleNamespace(log_p_all=lambda: log_p))

    return cast(Learner, SimpleNamespace(router=SimpleNamespace(read=read)))


def test_scores_of_known_and_missing_cells() -> None:
    rewards = np.array([[1.0, 0.0, 0.5], [NAN, 1.0, 0.0], [0.0, NAN, NAN]])
    found = scores(fixed([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]]), TaughtRows(tuple(asked(3)), rewards))
    np.testing.assert_allclose(found.expected, [0.6, 0.1 / 0.4, 0.0])
    assert found.greedy.tolist() == [1.0, 0.0, 0.0]
    one = scores(fixed([[0.5, 0.3, 0.2]]), TaughtRows(tuple(asked(1)), rewards[:1]))
    assert one.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)))


def test_the_closing_table_by_hand() -> None:
    train = np.array([[1.0, 0.0], [NAN, 0.5], [0.2, NAN]])  # means 0.6 and 0.25
    held_out = np.array([[0.5, 1.0], [NAN, 0.5], [0.25, 0.0]])
    router = Scores(np.array([0.75, 0.5, 0.125]), np.array([1.0, 0.5, 0.0]), 0.1)
    rows = {row.label: row for row in warmup_rows(train, held_out, [("a",), ("b",)], router)}
    assert {label: row.reward.mean for label, row in rows.items()} == pytest.approx(
        {
            "random": (0.75 + 0.5 + 0.125) / 3, "always a": 0.375, "router, drawn": 1.375 / 3,
            "router, likeliest": 0.5, "per-query oracle": 1.75 / 3,
        }
    )  # fmt: skip
    assert [row.reward.count for row in rows.values()] == [3, 2, 3, 3, 3]
    gain = rows["always a"].gain
    assert gain is not None
    assert (gain.mean, gain.count) == pytest.approx((0.125, 2))
    assert best_single(np.array([[NAN, -1.0]])) == 1


Warmed = tuple[Learner, TaughtRows, RunResult, Path]


class Interrupted(Exception):
    pass


def warmed(folder: Path, experiment: Experiment, stop: int = 10**6) -> tuple[Learner, TaughtRows, RunResult]:
    """A warm-up that dies after step `stop`, then the learner at the end."""
    rows = taught_rows(skills_table(200), NAMES, 1, experiment.learning)
    train, aside = held_out_split(rows, experiment.run.warmup.held_out)
    run = warmup_experiment(experiment, len(train.questions))
    learner = build_learner(run, build_task(run.task), {})

    def report(step: int, metrics: dict[str, float]) -> None:
        if step == stop:
            raise Interrupted

    return learner, aside, warm_up(learner, run, train, aside, RunFolder(folder, run), report)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("warm") / "whole"
    return *warmed(folder, skills_experiment(warmup={"epochs": 3})), folder


def test_warm_up_reaches_the_oracle_where_the_best_is_visible(
    whole: Warmed,
) -> None:
    learner, aside, result, _ = whole
    oracle = float(np.nanmax(aside.rewards, 1).mean())
    assert len(aside.questions) > 30
    assert scores(learner, aside).expected.mean() >= 0.95 * oracle
    assert scores(learner, aside).greedy.mean() >= 0.95 * oracle
    assert np.nanmean(aside.rewards) < 0.6 * oracle  # what a router that learnt nothing expects
    assert result.metrics["validation_expected_reward"] >= 0.95 * oracle


def test_assignments_that_tie_share_the_probability(whole: Warmed) -> None:
    learner, aside, _, _ = whole
    ties = [q for q in aside.questions if q.attributes["skill"] == "reverse"]
    assert len(ties) > 5
    p = learner.router.read(ties).distribution.log_p_all().detach().exp().mean(0)
    assert PAYS["reverse"] == (0.0, 1.0, 1.0)
    assert float(p[1]) == pytest.approx(0.5, abs=0.1)
    assert float(p[2]) == pytest.approx(0.5, abs=0.1)


def test_interrupted_and_started_again_is_uninterrupted(whole: Warmed, tmp_path: Path) -> None:
    learner, _, result, folder = whole
    experiment = skills_experiment(warmup={"epochs": 3})
    with pytest.raises(Interrupted):
        warmed(tmp_path / "parts", experiment, stop=13)
    again, _, resumed = warmed(tmp_path / "parts", experiment)
    assert resumed.best_step == result.best_step
    steps = [[r.step for r in read_records(f / "metrics.jsonl")] for f in (folder, tmp_path / "parts")]
    assert steps[0] == steps[1] == list(range(1, result.steps + 1))
    for name, value in learner.snapshot().tensors.items():
        assert torch.equal(again.snapshot().tensors[name], value), name
    _, _, third = warmed(tmp_path / "parts", experiment, stop=0)
    assert third == resumed


def test_another_configuration_is_refused_with_the_difference(
    whole: Warmed,
) -> None:
    with pytest.raises(CheckpointError, match=r"run\.warmup\.held_out: stored 0\.2, now 0\.3"):
        warmed(whole[3], skills_experiment(warmup={"epochs": 3, "held_out": 0.3}))


def test_a_folder_belongs_to_one_table(tmp_path: Path) -> None:
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    claim(tmp_path / "warm", one)
    claim(tmp_path / "warm", one)
    with pytest.raises(ConfigError, match=r"learnt from .*one\.parquet .* this is .*other\.parquet"):
        claim(tmp_path / "warm", other)
    RunFolder(tmp_path / "trained", skills_experiment())
    with pytest.raises(ConfigError, match="is a run that is no warm-up"):
        claim(tmp_path / "trained", one)


def test_the_warm_up_is_an_architecture_only_run_without_a_warm_start() -> None:
    made = warmup_experiment(skills_experiment(warm_start="other", warmup={"epochs": 3}), 33)
    assert (made.routing.low_level.type, made.run.warm_start, made.run.steps) == ("none", None, 9)
    assert Experiment.model_validate_json(made.model_dump_json()) == made


def test_a_study_of_backbones_apart_warms_up_the_shared_one_and_can_be_read_again() -> None:
    study = skills_experiment()
    apart = study.model_copy(update={"routing": study.routing.model_copy(update={"share_backbone": False})})
    made = warmup_experiment(apart, 33)
    assert Experiment.model_validate_json(made.model_dump_json()) == made
