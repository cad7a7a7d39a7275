"""Is this pool worth routing: counts of what was planted, gains in closed form, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike

from haps_search.evaluation.pool.census import Census, census
from haps_search.evaluation.pool.gains import Complete, complete, gains, model_lines
from haps_search.evaluation.pool.likeness import likeness, luck
from haps_search.evaluation.pool.pool_report import pool_report
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.tables.splits import Digests, digests
from haps_search.types import Question

NAN = float("nan")


def a_table(
    rewards: ArrayLike,
    texts: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str | None] | None = None,
    samples: int = 1,
    costs: ArrayLike | None = None,
) -> OutcomeTable:
    cells = np.asarray(rewards, np.float32)
    n, c = cells.shape
    return OutcomeTable(
        questions=tuple(Question(f"q{i}", text, "") for i, text in enumerate(texts or map("text {}".format, range(n)))),
        tasks=tuple(tasks or [""] * n),
        splits=tuple(splits or [None] * n),
        assignments=tuple((f"m{i}",) for i in range(c)),
        rewards=cells,
        samples=np.where(np.isnan(cells), 0, samples).astype(np.int32),
        costs=None if costs is None else np.broadcast_to(np.asarray(costs, np.float32), cells.shape),
    )


def texts_of(table: OutcomeTable) -> Digests:
    return digests([question.text for question in table.questions])


def census_of(table: OutcomeTable) -> Census:
    return census(table, texts_of(table))


def part_of(table: OutcomeTable) -> Complete:
    part = complete(table, texts_of(table))
    assert part is not None
    return part


def test_planted_gaps_duplicates_and_leaks_are_counted_exactly() -> None:
    texts = ["Who?", "who", "Where is it?", "Where is it?", "WHERE, is it", "The end", "unique", "Who!"]
    splits = ["train", "test", "train", "train", "test", "train", None, "validation"]
    table = a_table([[1, 0], [NAN, 1], [0, 0], [NAN, NAN], [1, 1], [1, 0], [0, NAN], [1, 1]], texts, splits=splits)
    found = census_of(table)
    assert (found.missing_cells, found.incomplete, found.unanswered) == (4, 3, 1)
    assert found.splits == {"train": 4, "test": 2, "validation": 1}
    duplicates = found.duplicates
    assert (duplicates.texts, duplicates.questions, duplicates.same_letters) == (2, 6, 0)
    assert duplicates.example == ("q0", "q1", "q7")
    assert (found.leaks.texts, found.leaks.questions) == (2, 6)
    assert found.leaks.between == {"test and train and validation": 1, "test and train": 1}
    assert found.leaks.example == ("q0", "q1", "q7")


def test_duplicates_to_the_letter_are_told_apart_and_unknown_splits_leak_nothing() -> None:
    found = census_of(
        a_table([[1, 0]] * 4, ["same", "same", "other?", "Other"], splits=["train", None, "train", "train"])
    )
    assert (found.duplicates.texts, found.duplicates.same_letters) == (2, 1)
    assert found.leaks.texts == 0


def test_ways_to_choose_by_hand() -> None:
    rewards = [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [1, 0, 1]]
    found = gains(part_of(a_table(rewards, costs=[3.0, 2.0, 1.0])))
    assert found.best_model == "m0"
    assert found.random.reward.mean == pytest.approx((1 / 3 + 1 / 3 + 1 / 3 + 2 / 3) / 4)
    assert found.best_single.reward.mean == pytest.approx(2.5 / 4)
    assert found.oracle.reward.mean == pytest.approx(3.5 / 4)
    assert found.oracle.gain.mean == pytest.approx(0.25)
    assert found.oracle.cost == pytest.approx((3 + 2 + 2 + 1) / 4), "the cheapest of the best"
    assert (found.best_single.cost, found.random.cost) == (3, pytest.approx(2))
    assert found.best_per_task is None


def test_only_questions_that_all_models_answered_are_compared() -> None:
    found = gains(part_of(a_table([[1, 0], [NAN, 1], [0, 1], [0, NAN], [0, 1]])))
    assert (found.questions, found.best_model) == (3, "m1")
    assert pool_report(a_table([[1, NAN], [NAN, 1]])).verdict.kind == "unknown"


def test_the_best_per_task_is_chosen_on_questions_it_is_not_paid_for() -> None:
    """Each question its own task: in hindsight the best per task would be the per-query oracle, honestly it is none."""
    generator = np.random.default_rng(0)
    rewards = generator.integers(0, 2, (300, 4))
    found = gains(part_of(a_table(rewards, tasks=[f"task {i}" for i in range(300)])))
    assert found.best_per_task is not None
    assert found.oracle.reward.mean > 0.9
    assert found.best_per_task.reward.mean < 0.6


def test_duplicates_do_not_help_the_best_per_task() -> None:
    """Two copies of each question, each pair a task of its own: both copies lie in the same half."""
    generator = np.random.default_rng(1)
    rewards = np.repeat(generator.integers(0, 2, (200, 4)), 2, axis=0)
    texts = [f"text {i // 2}{'?' * (i % 2)}" for i in range(400)]
    found = gains(part_of(a_table(rewards, texts, tasks=[f"task {i // 2}" for i in range(400)])))
    assert found.best_per_task is not None
    assert found.best_per_task.reward.mean < 0.65


def test_a_task_that_tells_the_model_is_worth_routing() -> None:
    tasks = ["a", "b"] * 100
    rewards = [[1, 0] if task == "a" else [0, 1] for task in tasks]
    report = pool_report(a_table(rewards, tasks=tasks))
    assert report.gains is not None
    assert report.gains.best_per_task is not None
    assert report.gains.best_per_task.gain.mean == pytest.approx(0.5)
    assert report.verdict.kind == "worth"
    assert "it can gain at most +0.500" in report.verdict.sentences[0]


@pytest.mark.parametrize("n", [40, 1000])
@pytest.mark.parametrize(
    "row",
    [
        pytest.param([1, 0, 0.5], id="one model is best everywhere"),
        pytest.param([1, 1, 1], id="all are equal"),
        pytest.param([0, 0, 0], id="all fail"),
    ],
)
def test_routing_cannot_help_where_no_other_model_is_ever_better(row: list[float], n: int) -> None:
    report = pool_report(a_table([row] * n, tasks=["a", "b"] * (n // 2)))
    assert report.verdict.kind == "cannot"
    assert report.verdict.sentences[0] == (
        "Routing cannot help here: no other model earned more than m0 on any question."
    )
    assert ("is not excluded" in " ".join(report.verdict.sentences)) == (n == 40)


def test_routing_cannot_help_where_perfect_choices_gain_too_little() -> None:
    report = pool_report(a_table([[1, 0]] * 2995 + [[0, 1]] * 5))
    assert report.verdict.kind == "cannot"
    assert "even perfect choices would gain only +0.002" in report.verdict.sentences[0]


def test_equal_models_at_different_prices_can_still_save() -> None:
    rewards = [[1, 0], [1, 1]] * 300
    said = pool_report(a_table(rewards, costs=[4.0, 1.0])).verdict.sentences
    assert said[-1] == "Perfect choices would cost 2.5 instead of 4: at most 38% can be saved."
    free = pool_report(a_table(rewards, costs=[0.0, 0.0])).verdict.sentences
    assert not any("cost" in sentence for sentence in free)


def test_equal_rewards_make_the_cheaper_model_the_best_single() -> None:
    assert part_of(a_table([[1, 1, 0]] * 5, costs=[2.0, 1.0, 0.5])).best == 1


def coins(probabilities: np.ndarray, samples: int, seed: int) -> OutcomeTable:
    generator = np.random.default_rng(seed)
    return a_table(generator.binomial(samples, probabilities) / samples, samples=samples)


def test_a_gap_of_coin_flips_is_seen_to_be_luck() -> None:
    """All models are right half of the time: the oracle seems to gain, and nothing of it stays."""
    report = pool_report(coins(np.full((1500, 5), 0.5), 2, seed=3))
    assert report.gains is not None
    assert report.gains.oracle.gain.mean > 0.25
    assert report.luck is not None
    assert report.luck.sure_gain is not None
    assert report.luck.sure_gain.low < 0 < report.luck.sure_gain.high
    assert any("may be luck" in sentence for sentence in report.verdict.sentences)


def test_a_gap_that_each_run_repeats_is_no_luck() -> None:
    sure = np.tile([[1.0, 0.0], [0.0, 1.0]], (200, 1))
    found = luck(part_of(coins(sure, 3, seed=0)))
    assert found.sure_gain is not None
    assert found.sure_gain.mean == pytest.approx(0.5)


def test_what_half_of_the_samples_choose_gains_what_it_should() -> None:
    """p = 0.75 or 0.25 in turn; one sample each chooses, m0 where they agree: 0.5 + P(m1 alone right) x what it is
    worth, E[gain] = ((3/4 * 3/4) * 1/2 - (1/4 * 1/4) * 1/2) / 2 = 1/8."""
    mixed = np.tile([[0.75, 0.25], [0.25, 0.75]], (4000, 1))
    table = coins(mixed, 2, seed=5)
    found = luck(part_of(table))
    assert found.sure_gain is not None
    assert found.sure_gain.mean == pytest.approx(1 / 8, abs=0.02)


def test_luck_is_unknown_without_single_samples() -> None:
    assert luck(part_of(a_table([[1, 0]] * 5))).unknown == "each score is one run"
    assert "means only" in luck(part_of(a_table([[0.3, 0.9]] * 5, samples=4))).unknown
    assert any(
        "luck" in s and "each score is one run" in s
        for s in pool_report(a_table([[1, 0], [0, 1]] * 9)).verdict.sentences
    )


def test_correlations_by_hand() -> None:
    """phi of (1,1,0,0) with (1,0,1,0) is 0, with itself 1, with its opposite -1."""
    rewards = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).T
    found = likeness(part_of(a_table(rewards)))
    matrix = np.array(found.matrix)
    assert_allclose(matrix[0, :4], [1, 0, 1, -1], atol=1e-12)
    assert np.isnan(matrix[4]).all()
    assert found.mean == pytest.approx((0 + 1 - 1 + 0 + 0 - 1) / 6)
    assert (found.most and found.most.correlation, found.least and found.least.correlation) == (1, -1)
    assert found.identical == (("m0", "m2"),)
    assert math.isnan(likeness(part_of(a_table([[1, 0]] * 3))).mean)


def test_models_are_listed_best_first_with_what_only_they_can() -> None:
    table = a_table([[0, 1, NAN], [0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 1, NAN]], costs=[1.0, 2.0, NAN])
    lines = model_lines(table, complete(table, texts_of(table)))
    assert [line.name for line in lines] == ["m1", "m2", "m0"]
    assert [line.answered for line in lines] == [5, 3, 5]
    assert [line.only_best for line in lines] == pytest.approx([0, 0, 1 / 3])
    assert [line.cost for line in lines] == [2, None, 1]
    assert lines[1].reward is not None
    assert lines[1].reward.mean == pytest.approx(2 / 3)
