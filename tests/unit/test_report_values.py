"""What a report's figures and sentences show, apart from drawing them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from reports import HIDDEN, LOW, RANK, RATE, SPACE, TWO, a_sweep, log, searched, steps_of, study_of
from sweeps import a_trial

from haps_search.config.run import Experiment
from haps_search.errors import DataError
from haps_search.evaluation.labels import ORACLE
from haps_search.report.build import facts, state
from haps_search.report.comparisons import Gap, placed, references, standings, standings_table
from haps_search.report.curves import BEST, CONFIRM, OTHERS, REST, Shares, gathered, groups, panels, shares, thinned
from haps_search.report.parameters import (
    Axis,
    Importance,
    axes,
    importance_section,
    levels,
    parallel_section,
    short_labels,
    trials_table,
    why_not,
)
from haps_search.report.replays import CostCurve, cost_curve, curve_table, replay_sections
from haps_search.report.source import Fields, Source, read_run, read_stored, read_sweep
from haps_search.report.verdict import ORACLES, Alarm, alarms, failures, held_against, verdict

FIRST = ((1, 1.0), (2, 3.0), (3, math.nan), (4, 5.0), (5, math.nan))


@pytest.mark.parametrize(
    ("stride", "kept"),
    [
        (1, ((1, 1.0), (2, 3.0), (4, 5.0))),
        (2, ((2, 2.0), (4, 5.0))),
        (3, ((3, 2.0), (5, 5.0))),
    ],
)
def test_points_are_averaged_in_groups_and_what_is_not_finite_is_left_out(stride: int, kept: Any) -> None:
    assert thinned(FIRST, stride) == kept


def test_curves_are_of_every_run_and_say_which_one_is_best(tmp_path: Path) -> None:
    source = searched(tmp_path)
    assert groups(source) == {**dict.fromkeys(range(7), OTHERS), 5: BEST, 7: CONFIRM}
    by_metric = {p.metric: p for p in panels(source)}
    assert list(by_metric) == ["reward", "route_entropy"]
    assert by_metric["reward"].curves[0].points == ((1, 0.1), (2, 0.2), (3, pytest.approx(0.3)), (4, 0.4), (5, 0.5))


def test_long_records_are_drawn_with_few_points_of_one_stride(tmp_path: Path) -> None:
    trials = [a_trial(0, 0.9), a_trial(1, 0.8)]
    steps = {0: steps_of([0.5] * 300), 1: steps_of([0.25] * 7)}
    (panel, _) = panels(read_sweep(a_sweep(tmp_path / "s", study_of(), trials, steps)))
    assert panel.stride == 3
    assert [len(c.points) for c in panel.curves] == [100, 3]
    assert panel.curves[1].points[-1] == (7, 0.25)


def test_without_a_runs_own_records_the_journals_reports_are_drawn(tmp_path: Path) -> None:
    from haps_search.sweep.events import TrialReported

    journal = a_sweep(tmp_path / "s", study_of(), [a_trial(0, state="running")], {})
    journal.append(TrialReported(0, 3, {"reward": 0.25}))
    assert panels(read_sweep(journal))[0].curves[0].points == ((3, 0.25),)


def test_shares_beyond_the_seventh_candidate_are_added_up_and_keep_their_sum() -> None:
    values = tuple((float(v), float(v)) for v in (1, 9, 2, 8, 3, 7, 4, 6, 5))
    found = gathered(Shares(0, "t", tuple("abcdefghi"), (1, 2), values))
    assert found.candidates == (*"bdefghi", REST)
    assert found.values[-1] == (3.0, 3.0)
    assert math.fsum(row[0] for row in found.values) == 45.0


def test_shares_are_of_the_best_trial_and_of_every_arm(tmp_path: Path) -> None:
    (best,) = shares(searched(tmp_path))
    assert best.candidates == ("adder", "sorter")
    assert [a + b for a, b in zip(*best.values, strict=True)] == [1.0] * 5
    trials = [a_trial(n, 0.5, label=label, seed=s) for n, (label, s) in enumerate([("b", 3), ("a", 3), ("b", 5)])]
    source = read_sweep(armed(tmp_path / "arms", trials))
    assert [each.title for each in shares(source)] == ["a, seed 3", "b, seed 3"]


def armed(folder: Path, trials: Any) -> Any:
    study = study_of(arms={"a": {}, "b": {RANK: 8}}, sweep={"seeds": [3, 5]})
    return a_sweep(folder, study, trials, {t.number: steps_of([0.5, 0.6]) for t in trials})


def test_places_on_axes_follow_the_space() -> None:
    by_name = {a.name: a for a in axes(study_of(space=SPACE))}
    assert list(by_name).index(LOW) < list(by_name).index(HIDDEN)
    assert by_name[RATE].place(1e-3) == pytest.approx(0.5)
    assert by_name[RANK].place(9) == pytest.approx(0.5)
    assert [by_name[HIDDEN].place(v) for v in ([8], [8, 8], [16])] == [0.0, 0.5, 1.0]
    assert Axis("x", "x", 2.0, 2.0).place(2.0) == 0.5


def test_choices_that_python_takes_for_equal_are_two() -> None:
    axis = Axis("x", "x", choices=("1", "true"))
    assert (axis.place(1), axis.place(True)) == (0.0, 1.0)


def test_labels_are_short_where_that_is_clear() -> None:
    assert short_labels(["a.b.c", "x.y.c", "z.b.c"]) == {"a.b.c": "a.b.c", "x.y.c": "y.c", "z.b.c": "z.b.c"}


def test_levels_are_fifths_by_rank() -> None:
    assert levels([1.0, 2.0, 3.0, 4.0, 5.0], maximise=True) == [0, 1, 2, 3, 4]
    assert levels([1.0, 2.0, 3.0, 4.0, 5.0], maximise=False) == [4, 3, 2, 1, 0]
    assert levels([7.0, 7.0], maximise=True) == [4, 4]


def test_a_parameter_that_was_not_active_has_an_empty_cell(tmp_path: Path) -> None:
    (figure,) = parallel_section(searched(tmp_path)).figures
    at = figure.data.columns.index(HIDDEN)
    by_trial = {row[0]: row[at] for row in figure.data.rows}
    assert (by_trial[0], by_trial[1], by_trial[5]) == (None, "[8, 8]", "[16]")


def test_the_trials_table_has_the_best_first_and_every_trial(tmp_path: Path) -> None:
    source = searched(tmp_path)
    numbers = [row[0] for row in trials_table(source).rows]
    assert numbers[0] == source.ranked[0].number
    assert sorted(numbers) == list(range(8))


def test_the_front_is_of_trials_that_none_beats_in_both(tmp_path: Path) -> None:
    # Rewards 0.3 .. 0.8 rise; costs are 5, 2, 1, 2, 5, 10.
    found = placed(searched(tmp_path))
    assert sorted(p.trial for p in found if p.front) == [2, 3, 4, 5]
    assert {p.trial: (p.first, p.second) for p in found}[2] == (0.5, 1.0)


def test_alarms_are_counted_with_their_first_and_last_step(tmp_path: Path) -> None:
    steps = steps_of([0.1] * 4)
    steps = [{**m, "answer_collapse": float(i in (1, 3))} for i, m in enumerate(steps)]
    source = read_sweep(a_sweep(tmp_path / "s", study_of(), [a_trial(0, 0.5)], {0: steps}))
    assert alarms(source) == [Alarm(0, "answer_collapse", 2, 4, 2, 4)]


def test_failures_have_their_reasons(tmp_path: Path) -> None:
    assert failures(searched(tmp_path)).rows == ((6, "search", 1, 5, "Diverged: <b>loss</b> is nan & gone", ""),)


COMPARISON = {
    "comparison": [
        {"label": label, "reward": {"mean": m, "low": m - 0.1, "high": m + 0.1, "count": 40}, "joint_gain": gain}
        for label, m, gain in (
            ("random", 0.2, {"mean": 0.4, "low": 0.3, "high": 0.5, "count": 40}),
            ("static adapter", 0.55, {"mean": 0.05, "low": -0.01, "high": 0.11, "count": 40}),
            (ORACLE, 0.9, {"mean": -0.3, "low": -0.4, "high": -0.2, "count": 40}),
            ("joint (best trial)", 0.6, None),
        )
    ]
}


def test_the_verdict_names_numbers_and_claims_no_more_than_the_interval(tmp_path: Path) -> None:
    searched(tmp_path)
    (tmp_path / "tiny" / "report.json").write_text(json.dumps(COMPARISON))
    said = verdict(reread(tmp_path))
    assert said[0].startswith("The best of 6 search trials, 005, reached validation_reward 0.800, validation_cost 10")
    assert said[1].endswith("joint (best trial) has 0.600 [0.500, 0.700] over 40 questions.")
    assert said[2] == (
        "It cannot be told apart from static adapter, the best row beside it (0.550): +0.050 [-0.010, 0.110]."
    )
    assert said[3] == "On fresh seeds its setting gives 0.500: 0.500."
    assert said[4:] == ("1 of 8 trials failed.", "Collapse alarms rose in 1 of 8 runs.")


def reread(runs: Path) -> Source:
    from haps_search.sweep.journal import Journal

    return read_sweep(Journal(runs / "tiny"))


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (Gap(0.2, 0.1, 0.3), "is better than X: +0.200 [0.100, 0.300]"),
        (Gap(-0.2, -0.3, -0.1), "is worse than X: -0.200 [-0.300, -0.100]"),
        (Gap(0.2, -0.1, 0.5), "cannot be told apart from X: +0.200 [-0.100, 0.500]"),
        (Gap(0.2, 0.0, 0.5), "cannot be told apart from X: +0.200 [0.000, 0.500]"),
        (Gap(0.2, None, None), "differs by +0.200 from X, without an interval"),
    ],
)
def test_better_is_said_where_the_whole_interval_says_it(gap: Gap, said: str) -> None:
    assert held_against(gap, "X") == said


def test_no_router_is_held_against_the_oracle_of_the_comparison() -> None:
    assert ORACLE in ORACLES


def test_the_verdict_of_a_sweep_that_runs_says_that_it_will_change(tmp_path: Path) -> None:
    source = searched(tmp_path, count=0, ended="")
    assert verdict(source)[:2] == (
        "The sweep has not ended (1 of 1 begun trials have); what follows will change.",
        "No trial has ended with a result yet.",
    )
    assert state(source).startswith("not ended")


def test_arms_are_held_against_the_first(tmp_path: Path) -> None:
    rows = [
        {"label": "a", "reward": {"mean": 0.3, "low": 0.2, "high": 0.4, "count": 10}, "difference": None,
         "seeds": [0.2, 0.4], "resolvable": None},
        {"label": "b", "reward": {"mean": 0.7, "low": 0.6, "high": 0.8, "count": 10},
         "difference": {"mean": 0.4, "low": 0.3, "high": 0.5, "count": 10}, "seeds": [0.7, 0.7], "resolvable": 0.125},
    ]  # fmt: skip
    journal = armed(tmp_path / "arms", [a_trial(0, 0.4, label="a", seed=3)])
    (journal.folder / "compare-test.json").write_text(json.dumps({"rows": rows}))
    source = read_sweep(journal)
    assert verdict(source)[1:] == (
        "On test a earns 0.300 [0.200, 0.400] over 10 questions.", "b is better than a: +0.400 [0.300, 0.500].",
    )  # fmt: skip
    (found,) = standings(source)
    table = standings_table(found)
    assert table.columns[-2:] == ("could show", "seeds")
    assert table.rows[1][-2:] == (0.125, 2)


def test_references_keep_every_column_they_came_with(tmp_path: Path) -> None:
    rows = [
        {"label": "kNN", "mean": 0.5, "low": 0.4, "high": 0.6, "macro": 0.45, "aiq": {"mean": 0.3, "low": 0.2},
         "difference": {"mean": 0.1, "low": 0.05, "high": 0.2}, "note": "k = 40"},
        {"label": "router", "mean": 0.6, "low": 0.5, "high": 0.7, "macro": 0.55},
    ]  # fmt: skip
    searched(tmp_path)
    (tmp_path / "tiny" / "references.json").write_text(json.dumps({"router": "router", "rows": rows}))
    source = reread(tmp_path)
    found = references(source)
    assert found is not None
    table = standings_table(found)
    assert table.columns == (
        "row", "mean", "low", "high", "router minus this", "router minus this, low", "router minus this, high",
        "macro", "aiq", "aiq, low", "note",
    )  # fmt: skip
    assert table.rows[0][-4:] == (0.45, 0.3, 0.2, "k = 40")
    assert any("is better than kNN" in line for line in verdict(source))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "needs a JSON object, got list"),
        ('{"rows": 3}', "field rows: needs a list of objects, got 3"),
        ('{"rows": [{"label": "a", "mean": 1}, {"label": "b"}]}', "rows[1]: field mean: needs a finite number"),
        ('{"rows": [{"label": "a", "mean": "x"}]}', 'rows[0]: field mean: needs a number or null, got "x"'),
        ('{"rows": [{"mean": 1}]}', "rows[0]: field label: needs a text, got nothing"),
    ],
)
def test_a_damaged_file_is_named_with_row_and_field(tmp_path: Path, content: str, said: str) -> None:
    searched(tmp_path)
    file = tmp_path / "tiny" / "references.json"
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        references(reread(tmp_path))
    assert str(file) in str(caught.value)
    assert said in str(caught.value)


def test_a_cost_curve_has_its_hull_in_order_of_cost() -> None:
    points = [{"label": "a", "cost": 2.0, "reward": 0.5}, {"label": "b", "cost": 1.0, "reward": 0.4}]
    found = cost_curve(Fields("curve", {"points": points, "hull": points}))
    assert found.hull == ((1.0, 0.4), (2.0, 0.5))
    assert found.points[0] == ("a", 2.0, 0.5)
    corner = CostCurve((("a", 2.0, 0.5), ("b", 1.0, 0.1)), ((1.0, 0.4), (2.0, 0.5)))
    assert curve_table(corner).rows == (("b", 1.0, 0.1, 0), ("hull", 1.0, 0.4, 1), ("a", 2.0, 0.5, 1))


def test_calibration_weighs_bins_by_their_predictions(tmp_path: Path) -> None:
    bins = [{"predicted": 0.2, "realised": 0.3, "count": 30}, {"predicted": 0.8, "realised": 0.4, "count": 10}]
    searched(tmp_path)
    (tmp_path / "tiny" / "calibration.json").write_text(json.dumps({"bins": bins}))
    (section,) = replay_sections(reread(tmp_path))
    # (0.1 * 30 + 0.4 * 10) / 40
    assert "differ by 0.175 on average" in section.figures[0].description


def test_importance_is_not_shown_where_it_would_mean_nothing(tmp_path: Path) -> None:
    assert why_not(searched(tmp_path)) == ""
    assert why_not(searched(tmp_path, "few", count=3)) == "3 search trials have a result, 4 are needed"
    same = [a_trial(n, 0.5, parameters={RATE: 1e-3}) for n in range(5)]
    flat = read_sweep(a_sweep(tmp_path / "flat", study_of(space={RATE: SPACE[RATE]}), same, {}))
    assert why_not(flat) == "all trials have the same result"
    plain = read_sweep(a_sweep(tmp_path / "plain", study_of(), same, {}))
    assert why_not(plain) == "no space was searched"
    assert importance_section(plain, ()).missing == "no space was searched"


def test_importance_says_what_computed_it_and_when_it_is_a_hint(tmp_path: Path) -> None:
    source = searched(tmp_path)
    section = importance_section(source, (Importance("validation_reward", "PED-ANOVA", 6, {RANK: 0.25, RATE: 0.75}),))
    assert section.figures[0].data.rows == ((RATE, 0.75), (RANK, 0.25))
    assert section.text[0].startswith("PED-ANOVA over 6 search trials")
    assert "a hint" in section.text[1]


def test_facts_tell_confirming_runs_from_planned_ones(tmp_path: Path) -> None:
    shown = dict(facts(searched(tmp_path)))
    assert shown["Trials"] == "7 of 24 planned and 1 confirming runs: 1 failed, 6 finished, 1 stopped"
    assert shown["Code"] == "9.9"
    assert shown["Objective"] == ", ".join(f"{o.get('mode', 'max')} {o['metric']}" for o in TWO)
    assert shown["Last begun"] == "2026-01-01 00:00 UTC"


def test_a_single_run_is_read_in_any_state(tmp_path: Path) -> None:
    experiment: Experiment = study_of().experiment
    log(tmp_path, steps_of([0.1, 0.2]))
    running = read_run(tmp_path, experiment)
    assert state(running) == "not ended, 2 of 20 steps done"
    assert verdict(running)[0].startswith("The run has not ended")
    (tmp_path / "result.json").write_text(json.dumps({"reason": "patience", "metrics": {"validation_reward": 0.75}}))
    ended = read_run(tmp_path, experiment)
    assert state(ended) == "ended: patience"
    assert verdict(ended) == ("The run reached validation_reward 0.750 after 2 steps.",)


def test_a_torn_last_line_of_a_running_trial_is_left_out(tmp_path: Path) -> None:
    log(tmp_path, steps_of([0.1, 0.2]))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "metr')
    assert len(read_run(tmp_path, study_of().experiment).records[0]) == 2


def test_there_is_nothing_to_read_where_no_file_is(tmp_path: Path) -> None:
    assert read_stored(tmp_path / "references.json") is None
