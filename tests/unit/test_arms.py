"""Arms: what is refused, what is run, and what their table says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sweeps import DESCRIBED, a_trial

from haps_search.config.load import dump, parse_study
from haps_search.config.routing import NoLowLevel
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.evaluation.comparison import POWER_80, arm_rows, resolvable
from haps_search.evaluation.intervals import two_way_interval
from haps_search.evaluation.labels import ORACLE
from haps_search.search.validation import Scored
from haps_search.sweep.journal import differences
from haps_search.sweep.progress import planned_trials
from haps_search.sweep.settings import arms, experiment_of
from haps_search.types import Episode, Question
from haps_search.verbs.compare import arm_rewards, finished_arms, same_questions
from haps_search.verbs.driver import read_arms

HIGH_ONLY = {"routing.low_level": {"type": "none"}}


def a_study(arms: dict[str, Any], **changes: Any) -> Study:
    return parse_study({**DESCRIBED, "arms": arms, "sweep": {"seeds": [3, 5]}, **changes})


def test_every_arm_runs_on_every_seed_and_an_unfinished_sweep_has_whole_comparisons() -> None:
    study = a_study({"joint": {}, "high level only": HIGH_ONLY})
    assert [(s.label, s.seed) for s in arms(study)] == [
        ("joint", 3), ("high level only", 3), ("joint", 5), ("high level only", 5),
    ]  # fmt: skip
    assert planned_trials(study) == 4
    changed = experiment_of(study, arms(study)[3])
    assert isinstance(changed.routing.low_level, NoLowLevel)
    assert changed.run.seed == 5


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"routing.low_levl": {"type": "none"}}, "did you mean routing.low_level?"),
        ({"run.steps": -1}, "needs more than 0"),
        ({"run.seed": 4}, "list them in sweep.seeds"),
        ({"engine.type": "local"}, "share one engine"),
        ({}, "is the same as joint"),
        ({"candidates.0.dtype": "float64"}, "adder is not hosted like this"),
    ],
)
def test_an_arm_that_cannot_run_is_named(arm: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        a_study_checked({"joint": {}, "bad": arm})
    assert "arms" in str(caught.value)
    assert "bad" in str(caught.value)
    assert said in str(caught.value)


def a_study_checked(arms: dict[str, Any]) -> None:
    """As `load_study` checks a file."""
    import tempfile
    from pathlib import Path

    import yaml

    from haps_search.config.load import load_study

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(yaml.safe_dump({**DESCRIBED, "arms": arms}, sort_keys=False))
        load_study(file)


def test_arms_and_a_space_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="compares arms or searches a space"):
        a_study({"joint": {}}, space={"run.steps": {"type": "int", "low": 1, "high": 5}})


def test_arms_are_not_stopped_early() -> None:
    with pytest.raises(ConfigError, match="asha would stop some arms early"):
        a_study({"joint": {}}, sweep={"scheduler": {"type": "asha"}})


def test_seeds_and_arms_may_be_added_but_not_taken_away() -> None:
    before = dump(a_study({"joint": {}}))
    more = dump(a_study({"joint": {}, "high level only": HIGH_ONLY}, sweep={"seeds": [3, 5, 7]}))
    assert differences(before, more) == []
    lost = differences(more, before)
    assert any("seeds may be added" in text for text in lost)
    assert any(text.startswith("arms.high level only") for text in lost)


@pytest.mark.parametrize("added", [HIGH_ONLY, {"routing.low_level.max_relative_norm": None}])
def test_what_an_arm_sets_stays_once_it_was_begun(added: dict[str, Any]) -> None:
    lost = differences(dump(a_study({"joint": {}})), dump(a_study({"joint": added})))
    assert [text.split(":")[0] for text in lost] == ["arms.joint"]


def test_arms_may_change_the_task_but_not_what_is_measured() -> None:
    read_arms(a_study({"joint": {}, "less": {"task.sizes": {"train": 8, "validation": 1000, "test": 2000}}}))
    with pytest.raises(ConfigError, match=r"arms\.few: its validation questions"):
        read_arms(a_study({"joint": {}, "few": {"task.sizes": {"train": 4096, "validation": 9, "test": 2000}}}))


def test_fewer_candidates_and_other_prices_need_no_other_pool() -> None:
    adder = DESCRIBED["experiment"]["candidates"][0]
    allowed = {"joint": {}, "one": {"candidates": [adder]}, "dear": {"candidates.0.price.read": 1.0}}
    a_study_checked(allowed)
    with pytest.raises(ConfigError, match="candidates"):
        a_study_checked({**allowed, "slow": {"candidates.0.dtype": "float64"}})


def test_finished_arms_come_in_the_order_of_the_study() -> None:
    study = a_study({"joint": {}, "high level only": HIGH_ONLY})
    trials = [
        a_trial(0, label="high level only", seed=5),
        a_trial(1, label="joint", seed=5),
        a_trial(2, label="joint", seed=3),
        a_trial(3, label="high level only", seed=3, state="failed"),
    ]
    assert [t.number for t in finished_arms(trials, study)] == [2, 1, 0]


def test_the_table_pairs_questions_and_seeds() -> None:
    joint = [[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]
    shifted = [[r - 0.25 for r in row] for row in joint]
    first, other, frozen = arm_rows({"joint": joint, "other": shifted, "frozen": [[0.0, 0.0, 0.0, 1.0]]})
    assert first.difference is None
    assert first.seeds == (0.75, 0.75)
    assert other.difference is not None
    assert (other.difference.mean, other.difference.low, other.difference.high) == (-0.25, -0.25, -0.25)
    assert other.resolvable == 0.0
    assert frozen.difference is not None
    assert frozen.difference.mean == -0.5
    assert frozen.difference.low < -0.5 < frozen.difference.high


def test_of_one_seed_equal_answers_leave_doubt_about_the_difference() -> None:
    """The bootstrap of no difference has no width, and so said that there is none."""
    _, other = arm_rows({"joint": [[1.0, 0.0] * 24], "other": [[1.0, 0.0] * 24]})
    assert other.difference is not None
    assert (other.difference.low, other.difference.high) == pytest.approx((-0.0741, 0.0741), abs=1e-4)


def test_only_the_same_seeds_are_paired() -> None:
    """Rewards that follow from the seed alone: paired rightly, no arm differs from the first."""
    rewards = {"first": [[0.1] * 4, [0.9] * 4], "other": [[0.9] * 4, [0.4] * 4], "apart": [[0.2] * 4, [0.6] * 4]}
    _, other, apart = arm_rows(rewards, {"first": (0, 1), "other": (1, 2), "apart": (7, 8)})
    assert other.difference is not None
    assert (other.difference.low, other.difference.high) == (0.0, 0.0)
    assert apart.difference is not None
    assert apart.difference.mean == pytest.approx(-0.1)


def test_the_spread_over_seeds_stays_in_the_difference_to_frozen_candidates() -> None:
    _, frozen = arm_rows({"first": [[0.0] * 4, [1.0] * 4], "frozen": [[0.5] * 4]})
    assert frozen.difference is not None
    assert (frozen.difference.low, frozen.difference.high) == (-0.5, 0.5)


def test_the_interval_knows_both_seeds_and_questions() -> None:
    """Against the closed-form standard error of a mean with independent row and column effects."""
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(40, 1)), rng.normal(size=(1, 400))
    found = two_way_interval(rows + columns)
    error = math.sqrt(rows.var() / 40 + columns.var() / 400)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_what_can_be_resolved_follows_from_the_paired_spread() -> None:
    paired = np.array([[1.0, -1.0, 1.0, -1.0]])
    assert resolvable(paired) == pytest.approx(POWER_80 * math.sqrt(4 / 3) / 2)
    assert math.isnan(resolvable(np.array([[1.0]])))


def test_other_questions_than_the_first_arms_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds x 3 questions"):
        arm_rows({"joint": [[1.0, 0.0, 1.0]], "other": [[1.0, 0.0]]})


def test_measurements_on_other_questions_are_not_paired() -> None:
    def scored(*questions: Question) -> Scored:
        return Scored(tuple(Episode(q, ("a",)) for q in questions), (0.0,) * len(questions))

    one, other = Question("validation-0", "1?", "1"), Question("validation-0", "2?", "2")
    assert same_questions([scored(one), scored(one)]) == ("validation-0",)
    with pytest.raises(ConfigError, match="questions differ"):
        same_questions([scored(one), scored(other)])


def test_each_arm_has_a_row_per_seed_and_the_oracle_takes_the_best_frozen_candidate_per_question() -> None:
    def scored(*rewards: float) -> Scored:
        return Scored(tuple(Episode(Question(str(i), "?", "!"), ("a",)) for i in range(len(rewards))), rewards)

    arms = {"joint": [scored(1.0, 0.0), scored(0.0, 0.5)], "static": [scored(0.25, 0.25)]}
    found = arm_rewards(arms, {("a",): scored(0.0, 1.0), ("b",): scored(0.5, 0.25)})
    assert {label: [list(row) for row in rows] for label, rows in found.items()} == {
        "joint": [[1.0, 0.0], [0.0, 0.5]],
        "static": [[0.25, 0.25]],
        "always a (frozen)": [[0.0, 1.0]],
        "always b (frozen)": [[0.5, 0.25]],
        ORACLE: [[0.5, 1.0]],
    }
