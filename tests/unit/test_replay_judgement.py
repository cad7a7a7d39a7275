"""How a searched router is judged on an outcome table: every number by hand, on tables made for it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest
from outcomes import clustered, four_folds

from haps_search.cli.replay_page import page
from haps_search.config.references import (
    BestPerTaskReference,
    BestSingleReference,
    KnnReference,
    PerQueryOracleReference,
    RandomReference,
    ReferencesConfig,
    RidgeReference,
)
from haps_search.evaluation import intervals
from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.references import Labelled
from haps_search.evaluation.references.tuned import Measured, measure
from haps_search.evaluation.replay.contents import contents
from haps_search.evaluation.replay.cost_quality import (
    METRICS,
    Quality,
    cost_range,
    qualities,
    reference_curve,
    router_curve,
    two_models,
)
from haps_search.evaluation.replay.judgement import Bin, Judgement, Verdict, judge, of_choices, of_scores, reliability
from haps_search.evaluation.replay.policies import Member, Policy, Yardstick, best_count, ensembles, mean_policy
from haps_search.evaluation.replay.standings import Method, best_reference, mean_cost, of_router, paired
from haps_search.tasks.task import KnownOutcomes

NAMES = ("a", "b", "c")
CONFIG = ReferencesConfig(
    compared=(
        *(RandomReference(), BestSingleReference(), BestPerTaskReference(), KnnReference(neighbours=(5,))),
        *(RidgeReference(alpha=(1.0,)), PerQueryOracleReference()),
    )
)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for what is asserted; all the others would be time."""
    monkeypatch.setattr(intervals, "DRAWS", 100)


def sure(choices: Sequence[int], count: int = 3) -> Policy:
    """A policy that puts all on one assignment per question."""
    return Policy(np.eye(count)[list(choices)])


def references(train: Labelled, test: Labelled) -> tuple[Measured, ...]:
    return measure(CONFIG, train, test, four_folds(train), seed=0)


def judged(policies: Sequence[Policy], train: Labelled, test: Labelled) -> Judgement:
    return judge({"router": policies}, references(train, test), train, test, NAMES, "test")


def noisy(count: int, seed: int) -> Labelled:
    """Clusters in which the right assignment earns 0.8 on average, and the others 0.3; features tell nothing."""
    table, rng = clustered(count, seed=seed), np.random.default_rng(seed)
    rewards = (rng.random(table.rewards.shape) < np.where(table.rewards > 0, 0.8, 0.3)).astype(np.float64)
    return Labelled(rng.normal(size=table.features.shape), ("",) * count, rewards, table.costs)


def test_greedy_and_sampled_by_hand() -> None:
    rewards = np.array([[1.0, 0.0, 0.5], [np.nan, 0.2, 0.6]])
    policy = Policy(np.array([[0.5, 0.3, 0.2], [0.5, 0.4, 0.1]]))
    found = of_router("router", [policy], rewards)
    np.testing.assert_allclose(found.rewards, [[1.0, 0.2]])
    # 0.5 + 0.1; of the measured cells (0.4 * 0.2 + 0.1 * 0.6) / 0.5
    assert found.sampled is not None
    np.testing.assert_allclose(found.sampled, [[0.6, 0.28]])
    np.testing.assert_allclose(found.shares[0, 1], [0, 1, 0])


def test_probabilities_have_to_be_some() -> None:
    with pytest.raises(ValueError, match="each row summing to 1"):
        Policy(np.array([[0.5, 0.2]]))
    with pytest.raises(ValueError, match="alike"):
        Policy(np.eye(2), {0.1: np.eye(3)})


def test_an_ensemble_is_a_mean_per_seed_over_settings_and_folds() -> None:
    first, second, third = (Policy(np.array([row])) for row in ([1.0, 0.0], [0.0, 1.0], [0.4, 0.6]))
    members = [Member("s", 0, first), Member("s", 1, second), Member("s", 0, third), Member("s", 1, third)]
    one, other = ensembles(members)
    np.testing.assert_allclose(one.probabilities, [[0.5, 0.5]])
    np.testing.assert_allclose(other.probabilities, [[0.4, 0.6]])
    # A third checkpoint of fold 0 has no partner.
    assert len(ensembles([*members, Member("s", 0, first)])) == 2
    with pytest.raises(ValueError, match="one checkpoint"):
        ensembles([])


def test_an_ensemble_knows_the_weights_of_cost_that_all_know() -> None:
    one = Policy(np.eye(2), {0.1: np.eye(2), 0.2: np.eye(2)})
    other = Policy(np.eye(2), {0.2: np.eye(2)[::-1]})
    found = mean_policy([one, other])
    assert list(found.priced) == [0.2]
    np.testing.assert_allclose(found.priced[0.2], 0.5)


def test_as_many_trials_are_averaged_as_help_on_validation() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    best = Policy(np.array([[0.9, 0.1], [0.6, 0.4], [0.9, 0.1]]))
    helps = Policy(np.array([[0.5, 0.5], [0.1, 0.9], [0.6, 0.4]]))
    spoils = Policy(np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]))
    worth = Yardstick(rewards)
    assert best_count([best, helps, spoils], worth) == 2
    assert best_count([best, spoils], worth) == 1


def test_a_yardstick_measures_reward_or_aiq() -> None:
    known = KnownOutcomes(
        np.array([[1.0, 0.5]] * 4, np.float32), np.ones((4, 2)), np.array([[1.0, 0.25]] * 4, np.float32),
        np.array([1.0, 0.25]),
    )  # fmt: skip
    dear, cheap = (Policy(np.array([chances] * 4)) for chances in ([0.6, 0.4], [0.4, 0.6]))
    for parts in ([known], [known, known]):
        by_reward, by_aiq = Yardstick.of(parts), Yardstick.of(parts, "aiq")
        wide = [Policy(np.tile(each.probabilities, (len(parts), 1))) for each in (dear, cheap)]
        assert [by_reward(each) for each in wide] == [1.0, 0.5]
        assert [by_aiq(each) for each in wide] == [pytest.approx(0.75), 0.5]
    unpaid = replace(known, costs=None, prices=None)
    assert Yardstick.of([unpaid], "aiq0")(dear) == 1.0


def test_utility_weighs_cost_where_settings_are_averaged() -> None:
    known = KnownOutcomes(
        np.array([[0.6, 0.55]] * 4, np.float32), np.ones((4, 2)), np.array([[1.0, 0.1]] * 4, np.float32),
        np.array([1.0, 0.1]),
    )  # fmt: skip
    cheap, dear = (Policy(np.array([chances] * 4)) for chances in ([0.4, 0.6], [0.9, 0.1]))
    by_utility = Yardstick.of([known], "utility", 0.5)
    assert [by_utility(each) for each in (cheap, dear)] == [pytest.approx(0.5), pytest.approx(0.1)]
    assert best_count([cheap, dear], by_utility) == 1
    assert best_count([cheap, dear], Yardstick.of([known])) == 2  # by reward alone the dear one helps
    told = Policy(dear.probabilities, {0.01: dear.probabilities, 0.99: cheap.probabilities})
    assert by_utility(told) == pytest.approx((0.6 - 0.01 + 0.55 - 0.099) / 2)
    unpaid = Yardstick.of([replace(known, costs=None, prices=None)], "utility", 0.5)
    assert unpaid(dear) == pytest.approx(0.6)


def test_the_table_by_hand() -> None:
    """Two clusters right, one wrong: 2/3 of the questions, and every figure follows."""
    train, test = clustered(90), clustered(30, seed=1)
    clusters = [int(task[-1]) for task in test.tasks]
    rows = {row.label: row for row in judged([sure([0 if c == 2 else c for c in clusters])], train, test).rows}
    router, single, oracle = rows["router"], rows["best single"], rows["per-query oracle"]
    wrong = clusters.count(2)
    assert router.reward.mean == pytest.approx(1 - wrong / 30)
    assert router.sampled == pytest.approx(1 - wrong / 30)
    assert router.summary.macro.mean == pytest.approx(2 / 3)
    assert single.reward.mean == pytest.approx(clusters.count(0) / 30)
    assert router.summary.gap_closed.mean == pytest.approx(clusters.count(1) / (30 - clusters.count(0)))
    assert router.summary.gain_at_best.mean == pytest.approx((2 / 3) / (1 / 3) - 1)
    assert router.summary.gap_at_oracle.mean == pytest.approx(1 / 3)
    assert router.summary.regret.mean == pytest.approx(wrong / 30)
    assert router.cost == pytest.approx((1 * (30 - clusters.count(1)) + 2 * clusters.count(1)) / 30)
    assert router.shares == pytest.approx({"a": 1 - clusters.count(1) / 30, "b": clusters.count(1) / 30, "c": 0.0})
    assert router.difference is None
    assert oracle.difference is not None
    assert oracle.difference.mean == pytest.approx(-wrong / 30)
    assert oracle.kind == "oracle"
    assert rows["random"].reward.mean == pytest.approx(1 / 3)


def test_the_best_reference_is_the_hardest_that_can_be_reached() -> None:
    def method(label: str, kind: str, value: float) -> Method:
        return Method(label, kind, np.ones((1, 2, 1)), np.full((1, 2), value))  # type: ignore[arg-type]

    methods = [method("x", "reference", 0.4), method("y", "reference", 0.5), method("z", "oracle", 0.9)]
    assert best_reference(methods).label == "y"
    with pytest.raises(ValueError, match="no reference"):
        best_reference(methods[2:])


def test_a_router_that_is_the_reference_is_not_told_apart() -> None:
    train, test = noisy(300, 0), noisy(200, 1)
    found = references(train, test)
    best = max((m for m in found if m.reachable), key=lambda m: m.rewards.mean())
    judgement = judge({"router": [Policy(best.routes)]}, found, train, test, NAMES, "test")
    verdict = judgement.verdicts[0]
    assert verdict.difference.mean == 0
    assert verdict.difference.low <= 0 <= verdict.difference.high
    assert verdict.outcome == "not told apart"
    assert "does not beat" in verdict.sentence


def test_equal_routers_with_noise_give_an_interval_around_zero() -> None:
    """Choices by a coin on both sides: the truth is 0, and the interval has width."""
    rng, test = np.random.default_rng(5), noisy(400, 3)
    one, other = (of_router(name, [sure(rng.integers(0, 3, 400)) for _ in range(5)], test.rewards) for name in "xy")
    difference = paired(one, other)
    assert difference.low < 0 < difference.high
    assert difference.high - difference.low > 0.02


def test_a_router_better_by_construction_is_called_so() -> None:
    train, test = noisy(300, 0), noisy(400, 1)
    right = [q % 3 for q in range(399)] + [0]
    five = [sure([c if (q + seed) % 10 else 0 for q, c in enumerate(right)]) for seed in range(5)]
    verdict = judged(five, train, test).verdicts[0]
    assert verdict.difference.low > 0.2
    assert verdict.outcome == "better"
    assert "5 seeds" in verdict.sentence
    assert verdict.sentence.startswith("In mean reward the router beats the best reference, ")


def test_seeds_widen_the_interval() -> None:
    """Half the seeds earn 1 everywhere and half 0: the mean says little, and questions alone would not show it."""
    rewards = np.tile([1.0, 0.0], (100, 1))
    seeds = [sure([0] * 100, 2), sure([1] * 100, 2)]
    router, none = of_router("router", seeds, rewards), of_router("none", [sure([1] * 100, 2)], rewards)
    assert paired(router, none) == Interval(0.5, 0.0, 1.0, 100)


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.01, 0.03, "better"), (0.0, 0.03, "not told apart"), (-0.03, -0.01, "worse")]
)
def test_the_verdict_says_what_the_interval_says(low: float, high: float, outcome: str) -> None:
    verdict = Verdict("AIQ", "ridge", Interval((low + high) / 2, low, high, 1100), 5, "test")
    assert verdict.outcome == outcome
    assert ("router beats" in verdict.sentence) == (outcome == "better")
    assert "(1,100 test questions, 5 seeds; 95 % interval)" in verdict.sentence


def test_tasks_stand_apart() -> None:
    train, test = clustered(90), clustered(30, seed=1)
    clusters = [int(task[-1]) for task in test.tasks]
    rows = {row.task: row for row in judged([sure([0 if c == 2 else c for c in clusters])], train, test).tasks}
    assert [rows[f"task {c}"].rewards["router"] for c in range(3)] == [1.0, 1.0, 0.0]
    assert rows["task 2"].questions == clusters.count(2)
    assert rows["task 2"].difference.mean == pytest.approx(-1)
    assert judged([sure(clusters)], noisy(90, 0), noisy(30, 1)).tasks == ()


def test_a_curve_by_hand_from_probabilities() -> None:
    """log p - w * price: question 0 gives up b for a at w = ln 3, question 1 never takes it."""
    rewards, costs = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    test = Labelled(np.zeros((2, 1)), ("", ""), rewards, costs)
    curve = router_curve(Policy(np.array([[0.25, 0.75], [0.9, 0.1]])), np.array([1.0, 2.0]), test)
    np.testing.assert_allclose(curve.points()[0], [1.5, 1.0])
    np.testing.assert_allclose(curve.points()[-1], [1.0, 0.5])
    assert curve.weights[-1] == pytest.approx(2 * math.log(3))


def test_a_router_told_the_weight_is_taken_at_its_word() -> None:
    rewards, costs = np.array([[0.0, 1.0]]), np.array([[1.0, 2.0]])
    test = Labelled(np.zeros((1, 1)), ("",), rewards, costs)
    told = Policy(np.array([[0.1, 0.9]]), {0.5: np.array([[0.2, 0.8]]), 0.7: np.array([[0.8, 0.2]])})
    curve = router_curve(told, np.array([1.0, 2.0]), test)
    assert curve.weights.tolist() == [0.0, 0.5, 0.7]
    np.testing.assert_allclose(curve.points(), [[2, 1], [2, 1], [1, 0]])


def test_aiq_by_hand_and_its_paired_difference() -> None:
    """From the cheap one (1, 0) to the dear one (2, 1) over cost 1 to 2, that is 0.5; always dear is worth less: it
    falls in a line to (0, 0), 0.75 over the same range."""
    rewards, costs = np.tile([0.0, 1.0], (20, 1)), np.tile([1.0, 2.0], (20, 1))
    table = Labelled(np.zeros((20, 1)), ("",) * 20, rewards, costs)
    assert cost_range(table, table) == (1.0, 2.0)
    dear = Policy(np.tile([0.0, 1.0], (20, 1)), {1.0: np.tile([0.0, 1.0], (20, 1))})
    cheap = Policy(np.tile([1.0, 0.0], (20, 1)), {1.0: np.tile([1.0, 0.0], (20, 1))})
    known = np.array([1.0, 2.0])
    curves = {"router": [router_curve(dear, known, table)], "cheap": [router_curve(cheap, known, table)]}
    found = qualities(curves, "router", (1.0, 2.0))
    three_quarters = Interval(0.75, 0.75, 0.75, 20)
    assert found["router"] == Quality(three_quarters, three_quarters, None)
    assert found["cheap"].aiq.mean == 0
    assert found["cheap"].difference == Interval(0.75, 0.75, 0.75, 20)


def test_aiq_draws_are_paired_and_of_seeds_too() -> None:
    train, test = noisy(200, 0), noisy(150, 1)
    ridge = next(m for m in references(train, test) if m.type == "ridge")
    known = np.array([1.0, 2.0, 3.0])
    same = reference_curve(ridge, known, test)
    seeds = [router_curve(sure([c] * 150), known, test) for c in (0, 2)]
    found = qualities({"router": [same], "ridge": [same], "seeds": seeds}, "router", cost_range(train, test))
    assert found["ridge"].difference == Interval(0.0, 0.0, 0.0, 150)
    assert found["router"].aiq.high > found["router"].aiq.mean > found["router"].aiq.low
    each = [qualities({"one": [c]}, "one", cost_range(train, test))["one"].aiq for c in seeds]
    assert found["seeds"].aiq.mean == pytest.approx((each[0].mean + each[1].mean) / 2)
    # A draw takes one seed twice in half of all draws, so the interval spans both seeds' own.
    assert found["seeds"].aiq.low == pytest.approx(min(e.low for e in each), abs=0.02)
    assert found["seeds"].aiq.high == pytest.approx(max(e.high for e in each), abs=0.02)


def test_a_missing_cost_stands_at_its_price() -> None:
    table = Labelled(np.zeros((2, 1)), ("", ""), np.eye(2), np.array([[1.0, 3.0], [5.0, np.nan]]))
    method = of_router("router", [sure([1, 1], 2)], table.rewards)
    assert mean_cost(method, table, table) == pytest.approx(3.0)
    unknown = Labelled(np.zeros((2, 1)), ("", ""), np.eye(2))
    assert mean_cost(method, unknown, unknown) is None


def test_bins_by_hand() -> None:
    predicted, realised = np.array([0.1, 0.9, 0.2, 0.8]), np.array([0.0, 1.0, 1.0, 1.0])
    first, second = reliability(predicted, realised, bins=2)
    assert (first.predicted, first.realised, first.count) == (pytest.approx(0.15), 0.5, 2)
    assert (second.predicted, second.realised, second.count) == (pytest.approx(0.85), 1.0, 2)
    assert reliability(np.full(9, 0.5), np.arange(9) % 3 / 2) == (Bin(0.5, 0.5, 9),)
    for zeros in (2, 3):
        two = np.array([0.0] * zeros + [1.0] * (5 - zeros))
        assert [b.count for b in reliability(two, two, bins=2)] == [zeros, 5 - zeros]
    with pytest.raises(ValueError, match="one at least"):
        reliability(np.empty(0), np.empty(0))


def test_calibration_of_choices_and_of_scores() -> None:
    rewards = np.array([[1.0, 1.0, 0.0], [0.0, np.nan, 1.0]])
    policy = Policy(np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]]))
    # The second chooses the first of two measured ones, with 0.4 / 0.5, and is wrong; the first is one of two best.
    assert of_choices([policy], rewards) == (Bin(pytest.approx(0.7), 0.5, 1), Bin(pytest.approx(0.8), 0.0, 1))
    scores = np.array([[0.5, 0.5, 0.5], [0.5, 9.0, 0.5]])
    assert of_scores(scores, rewards) == (Bin(0.5, 0.6, 5),)


def test_what_is_stored_is_json_and_whole() -> None:
    train, test = clustered(90), clustered(30, seed=1)
    judgement = judged([sure([int(task[-1]) for task in test.tasks])], train, test)
    found = contents(judgement)
    assert set(found) == {"references.json", "curve.json", "tasks.json", "calibration.json"}
    json.dumps(found, allow_nan=False)
    kept = found["references.json"]
    assert [row["label"] for row in kept["rows"]][-1] == kept["router"] == "router"
    assert kept["shares"][-1] == {"row": "router", "a": 11 / 30, "b": pytest.approx(1 / 3), "c": pytest.approx(0.3)}
    assert {p["label"] for p in found["curve.json"]["points"]} >= {"always a", "router", "ridge"}
    assert [p["cost"] for p in found["curve.json"]["hull"]] == sorted(p["cost"] for p in found["curve.json"]["hull"])
    assert [line["label"] for line in found["curve.json"]["lines"] if line["best"]] == [judgement.verdicts[1].reference]
    without = [Labelled(t.features, t.tasks, t.rewards) for t in (train, test)]
    assert "curve.json" not in contents(judged([sure([0] * 30)], *without))


def test_two_models_by_hand() -> None:
    """The weak one fails on every other question: who knows which needs the strong one on half of them for all."""
    rewards = np.tile([[1.0, 1.0], [0.0, 1.0]], (10, 1))
    train = Labelled(np.zeros((20, 1)), ("",) * 20, rewards, None)
    asked = np.vstack([rewards, [[np.nan, 0.0]]])  # one that says nothing of the gap
    test = Labelled(np.zeros((21, 1)), ("",) * 21, asked, None)
    knows = Policy(np.vstack([np.tile([[0.9, 0.1], [0.4, 0.6]], (10, 1)), [[0.0, 1.0]]]))
    blind = Policy(np.full((21, 2), 0.5))
    config = ReferencesConfig(compared=(RandomReference(), BestSingleReference()))
    found = measure(config, train, test, four_folds(train), seed=0)
    pair = two_models({"knows": [knows], "both": [knows, blind]}, found, train, test, ("weak", "strong"))
    assert pair is not None
    assert (pair.strong, pair.weak) == ("strong", "weak")
    means = {label: [calls[name].mean for name in METRICS] for label, calls in pair.calls.items()}
    assert means["knows"] == pytest.approx([0.25, 0.4, 0.75])
    assert means["both"] == pytest.approx([0.375, 0.6, 0.625])
    assert means["random"] == means["best single"] == pytest.approx([0.5, 0.8, 0.5])
    knowing = pair.calls["knows"]["CPT(50)"]
    assert 0.05 < knowing.low < 0.25 < knowing.high < 0.5
    assert knowing.count == 20
    assert two_models({"knows": [knows]}, found, train, test, ("a", "b", "c")) is None
    judgement = judge({"knows": [knows]}, found, train, test, ("weak", "strong"), "test")
    row = next(row for row in contents(judgement)["references.json"]["rows"] if row["label"] == "knows")
    assert row["APGR"] == {"mean": pytest.approx(0.75), "low": ANY, "high": ANY}
    assert row["Gain@B"]["low"] <= row["Gain@B"]["mean"] <= row["Gain@B"]["high"]
    shown = [each for each in page(judgement, ()) if isinstance(each, str)]
    assert "share of questions that have to go to strong instead of weak for so much of the gap:" in shown


def test_a_strong_model_that_is_none_has_no_gap_to_recover() -> None:
    train, test = (
        Labelled(np.zeros((4, 1)), ("",) * 4, np.tile(row, (4, 1)), None) for row in ([0.0, 1.0], [1.0, 0.5])
    )
    found = measure(ReferencesConfig(compared=(BestSingleReference(),)), train, test, four_folds(train), seed=0)
    judgement = judge({"router": [Policy(np.full((4, 2), 0.5))]}, found, train, test, ("weak", "strong"), "test")
    rows = contents(judgement)["references.json"]["rows"]
    assert rows[0]["CPT(80)"] == {"mean": None, "low": None, "high": None}
