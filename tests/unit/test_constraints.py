"""Bounds that settings must keep: how they are written, whom they make the winner, what the sampler is told."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import yaml
from rich.console import Console
from sweeps import DESCRIBED, a_study, a_trial

from haps_search.cli.sweep_tables import ranking_table
from haps_search.config.constraints import parse_constraint
from haps_search.config.load import read_study
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.report.parameters import trials_table
from haps_search.report.source import Source
from haps_search.report.verdict import verdict
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.prior import prior_of
from haps_search.sweep.ranking import best_first
from haps_search.sweep.repeats import searched
from haps_search.sweep.suggestions import suggestion
from haps_search.sweep.telling import optuna_study

RATE = "learning.entropy_bonus"
SPACE = {RATE: {"type": "float", "low": 0.0, "high": 1.0}}
CHEAP = "validation_cost <= 0.5"


def paid(number: int, rate: float, **changes: Any) -> TrialRecord:
    """Reward and cost both rise with the rate: the unconstrained winner is the dearest."""
    metrics = {"validation_reward": rate, "validation_cost": rate}
    return a_trial(number, **{"metrics": metrics, "parameters": {RATE: rate}, **changes})


def a_source(study: Study, trials: Sequence[TrialRecord]) -> Source:
    return Source("s", Path("s"), "sweep", study.experiment, study, None, None, tuple(trials), {}, {})


TRIALS = [paid(n, rate) for n, rate in enumerate((0.9, 0.3, 0.48, 0.7, 0.1))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("validation_cots <= 0.5", "did you mean validation_cost?"),
        ("validation_cost < 0.5", "needs METRIC <= NUMBER or METRIC >= NUMBER"),
        ("validation_cost <= cheap", "needs a finite number"),
        ("validation_cost <= inf", "needs a finite number"),
        ("0.5 >= validation_cost", "no run records a metric 0.5"),
        ("validation_share/ader <= 0.5", "no such candidate; did you mean adder?"),
        ("share/ <= 0.5", "no such candidate; there are: adder, sorter"),
        ("share/answerer/adder <= 0.5", "no such candidate; did you mean adder?"),
        ("parse_failure_share/answerer/sortr <= 0.5", "no such candidate; did you mean sorter?"),
        ("validation_parse_failure_share/adder <= 0.5", "write validation_parse_failure_share/ROLE/CANDIDATE"),
    ],
)
def test_what_is_no_constraint_is_refused_with_the_nearest_spelling(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**DESCRIBED, "sweep": {"constraints": [text]}}))
    with pytest.raises(ConfigError, match="constraints") as caught:
        read_study(file)
    assert said in str(caught.value)


def test_a_constraint_says_by_how_much_it_is_broken() -> None:
    assert parse_constraint(" route_entropy>=0.1 ").excess(0.04) == pytest.approx(0.06)
    assert parse_constraint(CHEAP).excess(0.2) < 0
    assert str(parse_constraint("share/adder <= 5e-1")) == "share/adder <= 0.5"


@pytest.mark.parametrize("metric", ["validation_aiq", "validation_aiq0"])
def test_both_areas_that_a_priced_replay_records_can_be_bounded(metric: str) -> None:
    assert parse_constraint(f"{metric} >= 0.5").metric == metric


def test_the_unconstrained_winner_that_breaks_it_is_no_winner() -> None:
    assert [t.number for t in best_first(a_study(SPACE), TRIALS)] == [0, 3, 2, 1, 4]
    assert [t.number for t in best_first(a_study(SPACE, constraints=[CHEAP]), TRIALS)] == [2, 1, 4, 3, 0]


def test_a_trial_without_the_metric_has_no_result() -> None:
    study = a_study(SPACE, constraints=[CHEAP])
    unknown = a_trial(5, 0.4, parameters={RATE: 0.4})
    assert 5 not in [t.number for t in best_first(study, [*TRIALS, unknown])]
    nowhere = paid(6, 0.4, metrics={"validation_reward": 0.4, "validation_cost": math.nan})
    states = [t.state for t in optuna_study(study, [*TRIALS, unknown, nowhere]).trials]
    assert states[5:] == [optuna.trial.TrialState.FAIL] * 2


@pytest.mark.parametrize("text", ["validation_share/adder <= 0.5", "parse_failure_share/answerer/sorter <= 0.5"])
def test_the_study_s_own_candidates_can_be_bounded(text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**DESCRIBED, "sweep": {"constraints": [text]}}))
    assert [str(c) for c in read_study(file).sweep.limits] == [text]


def test_a_candidate_that_had_no_turn_failed_at_none() -> None:
    """What a run does not record of it keeps a bound on its failures, in ranks, for the sampler and for `--like`."""
    seat = "validation_parse_failure_share/answerer/sorter"
    study = a_study(SPACE, constraints=[f"{seat} <= 0.2"])
    trials = [
        paid(0, 0.5, metrics={"validation_reward": 0.5, seat: 0.1}),
        paid(1, 0.9, metrics={"validation_reward": 0.9}),
        paid(2, 0.95, metrics={"validation_reward": 0.95, seat: 0.7}),
    ]
    assert [t.number for t in best_first(study, trials)] == [1, 0, 2]
    told = optuna_study(study, trials).trials
    assert [t.state.name for t in told] == ["COMPLETE"] * 3
    known = prior_of("same", study, trials, study).known
    assert [k.metrics[seat] for k in known] == [0.1, 0.0, 0.7]
    assert len(optuna_study(study, [], known).trials) == 3


def test_over_seeds_a_candidate_without_a_turn_in_one_of_them_counts_as_none_there() -> None:
    seat = "parse_failure_share/answerer/sorter"
    runs = [a_trial(0, metrics={"reward": 0.5}), a_trial(1, metrics={"reward": 0.7, seat: 0.8}, of=0)]
    (setting,) = searched(runs, 2)
    assert setting.metrics == pytest.approx({"reward": 0.6, seat: 0.4})


def test_the_front_is_that_of_the_trials_that_keep_it() -> None:
    objectives = [{"metric": "validation_reward"}, {"metric": "validation_tokens", "mode": "min"}]
    study = a_study(SPACE, objectives=objectives, constraints=[CHEAP])
    trials = [
        paid(n, rate, metrics={"validation_reward": rate, "validation_cost": rate, "validation_tokens": tokens})
        for n, (rate, tokens) in enumerate([(0.9, 1.0), (0.5, 3.0), (0.4, 2.0), (0.3, 9.0)])
    ]
    assert [t.number for t in best_first(study, trials)] == [1, 2, 3, 0]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_sampler_goes_where_the_constraint_is_kept(sampler: str) -> None:
    """The unconstrained search climbs to 1; what keeps the constraint lies below a half."""

    def last(constraints: list[str]) -> float:
        study = a_study(SPACE, constraints=constraints, sampler={"type": sampler, "startup_trials": 5})
        trials: list[TrialRecord] = []
        for number in range(16 if sampler == "tpe" else 9):
            found = suggestion(study, trials, number)
            assert found is not None
            trials.append(paid(number, found[RATE]))
        return fmean(t.parameters[RATE] for t in trials[-4:])

    assert last([CHEAP]) < 0.6 < last([])


def test_table_and_report_name_what_is_broken() -> None:
    study = a_study(SPACE, constraints=[CHEAP])
    shown = io.StringIO()
    trials = best_first(study, TRIALS)
    Console(file=shown, width=140).print(ranking_table(study, trials, TRIALS))
    rows = [line for line in shown.getvalue().splitlines() if line[:3].isdigit()]
    assert rows[0].startswith("002")
    assert "validation_cost <= 0.5" in rows[-1]
    assert "<=" not in rows[0]
    source = a_source(study, TRIALS)
    said = " ".join(verdict(source))
    assert "It keeps validation_cost <= 0.5, as 3 of 5 do." in said
    assert "Unconstrained, 000 with validation_reward 0.900 would win: it breaks validation_cost <= 0.5." in said
    table = trials_table(source)
    place = table.columns.index("breaks")
    assert [row[place] for row in table.rows] == [None, None, None, CHEAP, CHEAP]


def test_where_nothing_keeps_it_the_report_says_so() -> None:
    study = a_study(SPACE, constraints=["validation_cost <= 0.01"])
    assert best_first(study, TRIALS)[0].number == 4
    assert "No trial keeps validation_cost <= 0.01; this one breaks the least." in verdict(a_source(study, TRIALS))
