"""Opponents that learn: what is fixed, what they search, and which trials of a journal are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import module, table
from sweeps import DESCRIBED, a_study, a_trial, write

from haps_search.config.load import dump, make_study
from haps_search.errors import ConfigError
from haps_search.evaluation.labels import ARCHITECTURE_ONLY, PLAIN_LORA, STATIC
from haps_search.lora.spec import resolve
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.opponents import HIGH, LOW, Search, opponents, opponents_again, spent, trials_each
from haps_search.sweep.progress import planned_trials
from haps_search.sweep.settings import confirmations, experiment_of
from haps_search.sweep.suggestions import suggestion

SEARCHED: dict[str, Any] = {
    LOW: 3e-4,
    HIGH: 2e-3,
    "routing.lora.rank": 8,
    "routing.low_level.hidden": [128, 128],
    "routing.low_level.max_relative_norm": 4.0,
}
SPACE = {HIGH: {"type": "log", "low": 3e-4, "high": 2e-3}, LOW: {"type": "log", "low": 1e-4, "high": 1e-3}}


def best(**changes: Any) -> TrialRecord:
    return a_trial(3, 0.9, seed=5, parameters={**SEARCHED, **changes})


def drawn(search: Search, trials: list[TrialRecord] | None = None, number: int = 7) -> dict[str, Any]:
    found = suggestion(search.study, search.own(trials or []), number)
    assert found is not None
    return found


def test_each_opponent_is_itself_at_the_best_trials_other_settings() -> None:
    found = opponents(a_study(SPACE), best())
    assert list(found) == ["architecture_only", "static", "plain_lora"]
    assert [s.label for s in found.values()] == [ARCHITECTURE_ONLY, STATIC, PLAIN_LORA]
    for search in found.values():
        setting = search.setting(drawn(search), 5)
        experiment = experiment_of(a_study(SPACE), setting)
        assert experiment.routing.lora.rank == 8
        assert experiment.run.seed == 5
        assert setting.kind == "comparison"
    routing = {name: experiment_of(a_study(SPACE), s.setting(drawn(s), 5)).routing for name, s in found.items()}
    assert routing["architecture_only"].low_level.type == "none"
    assert routing["static"].low_level.type == "static"
    assert routing["static"].low_level.max_relative_norm == 4.0  # type: ignore[union-attr]
    assert (routing["static"].lora.targets, routing["static"].lora.layers.last) == (("o_proj",), 1)  # type: ignore[union-attr]
    plain = routing["plain_lora"]
    assert (plain.lora.targets, plain.lora.layers) == ("all-linear", "all")
    assert plain.low_level.max_relative_norm is None  # type: ignore[union-attr]


def test_plain_lora_patches_every_linear_module_of_every_layer() -> None:
    search = opponents(a_study(SPACE), best(**{"routing.lora.targets": ["o_proj"]}))["plain_lora"]
    shapes = table("a", *(module(layer, kind=kind) for layer in range(3) for kind in ("q_proj", "o_proj", "up_proj")))
    layout = resolve(experiment_of(a_study(SPACE), search.setting(drawn(search), 5)).routing.lora, shapes)
    assert layout.targets == shapes.modules


def test_no_opponent_learns_at_the_generators_rate() -> None:
    searches = opponents(a_study(SPACE), best())
    for name in ("static", "plain_lora"):
        assert LOW not in searches[name].fixed
        rates = [drawn(searches[name], number=n)[LOW] for n in range(12)]
        assert all(3e-4 <= rate <= 3e-2 for rate in rates)
        assert max(rates) > 1e-3, "the generator's own range ends there"


def test_the_high_levels_rate_is_searched_as_the_study_does_or_around_the_best() -> None:
    both = opponents(a_study(SPACE), best())
    assert all(search.study.space[HIGH] == a_study(SPACE).space[HIGH] for search in both.values())
    without = opponents(a_study({LOW: SPACE[LOW]}), best())
    assert HIGH not in without["static"].study.space
    around = without["architecture_only"].study.space[HIGH]
    assert (around.low, around.high) == pytest.approx((2e-4, 2e-2))  # type: ignore[union-attr]


def test_opponents_search_the_rates_that_stages_say() -> None:
    """Else a rate of the best trial's would hide in a stage."""
    stages = [{"learning.learning_rate": {"high": 5e-3, "low": 1e-2}, "run.steps": 3}, {"run.steps": 4}]
    inside = {"stages.0.learning.learning_rate.low": {"type": "log", "low": 1e-4, "high": 1e-3}}
    study = a_study(inside, experiment={"stages": stages})
    trial = a_trial(3, 0.9, parameters={"stages.0.learning.learning_rate.low": 3e-4, "routing.low_level.hidden": [8]})
    found = opponents(study, trial)
    lows = {LOW, f"stages.0.{LOW}"}
    assert set(found["static"].study.space) == set(found["plain_lora"].study.space) == lows
    around = {path: (d.low, d.high) for path, d in found["architecture_only"].study.space.items()}  # type: ignore[union-attr]
    assert around == {HIGH: pytest.approx((1e-4, 1e-2)), f"stages.0.{HIGH}": pytest.approx((5e-4, 5e-2))}
    drawn_stages = experiment_of(study, found["static"].setting({LOW: 0.02, f"stages.0.{LOW}": 0.03}, 5)).played()
    assert [stage.learning.learning_rate.low for stage in drawn_stages] == [0.03, 0.02]


def test_the_static_adapter_has_the_bounds_of_the_best_trial() -> None:
    spectral = best(**{"routing.low_level.max_relative_spectral_norm": 0.3})
    static = opponents(a_study(), spectral)["static"]
    low = experiment_of(a_study(), static.setting(drawn(static), 1)).routing.low_level
    assert (low.max_relative_norm, low.max_relative_spectral_norm) == (4.0, 0.3)  # type: ignore[union-attr]


def test_against_a_residual_an_opponent_has_the_rank_of_both_parts() -> None:
    found = opponents(a_study(SPACE), best(**{"routing.low_level.residual_of": "static"}))
    ranks = {name: experiment_of(a_study(SPACE), s.setting(drawn(s), 1)).routing.lora.rank for name, s in found.items()}
    assert ranks == {"architecture_only": 8, "static": 16, "plain_lora": 16}


def test_an_opponent_does_not_begin_with_the_adapters_of_another_low_level() -> None:
    run = {"warm_start": "/runs/stage-1", "warm_start_low": True}
    study = a_study(SPACE, experiment={"run": run, "learning": {"kl_to": "start"}})
    for search in opponents(study, best()).values():
        experiment = experiment_of(study, search.setting(drawn(search), 1))
        assert (experiment.run.warm_start, experiment.run.warm_start_low) == ("/runs/stage-1", False)
        assert experiment.learning.kl_to == "frozen"
    own = {"settings": {"run.warm_start": "/runs/static-stage-1", "run.warm_start_low": True}}
    study = a_study(SPACE, experiment={"run": run}, opponents={"static": own})
    static = opponents(study, best())["static"]
    assert experiment_of(study, static.setting(drawn(static), 1)).run.warm_start_low


def test_what_teaches_adapters_cannot_teach_a_router_without_any() -> None:
    study = a_study(SPACE, experiment={"learning": {"signal": "references"}})
    assert list(opponents(study, best())) == ["static", "plain_lora"]


@pytest.mark.parametrize(("level", "own"), [("none", "architecture_only"), ("static", "static")])
def test_the_best_trial_is_no_opponent_of_its_own(level: str, own: str) -> None:
    trial = a_trial(3, 0.9, parameters={"routing.low_level.type": level})
    assert {*opponents(a_study(), trial)} == {"architecture_only", "static", "plain_lora"} - {own}


def test_an_opponent_may_be_left_out_and_have_settings_trials_and_a_space_of_its_own() -> None:
    own = {"trials": 3, "settings": {"run.steps": 4}, "space": {LOW: {"type": "choice", "values": [0.5, 0.25]}}}
    study = a_study(SPACE, opponents={"static": None, "plain_lora": own}, trials=9)
    found = opponents(study, best())
    assert list(found) == ["architecture_only", "plain_lora"]
    assert trials_each(study, "plain_lora", 9) == 3
    assert trials_each(study, "architecture_only", 9) == 9
    plain = found["plain_lora"]
    assert experiment_of(study, plain.setting(drawn(plain), 1)).run.steps == 4
    assert drawn(plain)[LOW] in (0.5, 0.25)
    assert planned_trials(study) == 9 + 9 + 3


def test_without_a_comparison_there_are_none() -> None:
    study = a_study(SPACE, comparison=False, trials=4)
    assert opponents(study, best()) == {}
    assert planned_trials(study) == 4


def test_a_backbone_of_its_own_is_nothing_an_opponent_could_read() -> None:
    study = a_study(experiment={"routing": {"share_backbone": False}})
    for search in opponents(study, best()).values():
        assert experiment_of(study, search.setting(drawn(search), 1)).routing.share_backbone


# Of a journal.


def trial(number: int, search: Search, reward: float | None, **changes: Any) -> TrialRecord:
    setting = search.setting(drawn(search, number=number), 11)
    return a_trial(number, reward, parameters=setting.parameters, kind="comparison", label=search.label, **changes)


def test_trials_of_a_journal_are_found_again_by_label_and_what_is_fixed(tmp_path: Path) -> None:
    study, searches = a_study(SPACE), opponents(a_study(SPACE), best())
    static, plain = searches["static"], searches["plain_lora"]
    other = opponents(study, best(**{"routing.lora.rank": 2}))["static"]
    journal = open_sweep(tmp_path, study, resume=False)
    write(journal, best(), trial(4, static, 0.5), trial(5, plain, 0.7), trial(6, other, 0.9), trial(7, static, 0.6))
    journal.close()
    trials = Journal(tmp_path).trials()
    assert [t.number for t in static.own(trials)] == [4, 7]
    assert [t.number for t in static.ranked(trials)] == [7, 4]
    assert {t.kind for t in static.ranked(trials)} == {"comparison"}
    assert (static.begun(trials), plain.begun(trials), other.begun(trials)) == (2, 1, 1)
    assert Search(study).begun(trials) == 1


def test_a_comparison_from_before_is_no_trial_of_a_search() -> None:
    static = opponents(a_study(SPACE), best())["static"]
    early = a_trial(9, 0.4, parameters={**static.fixed, LOW: 1e-5, HIGH: 1e-3}, kind="comparison", label=STATIC)
    assert static.own([early]) == []


def test_suggestions_follow_from_the_journal_and_learn_from_an_opponents_own_trials() -> None:
    static = opponents(a_study(SPACE, sampler={"type": "tpe", "startup_trials": 2}), best())["static"]
    past = [trial(n, static, 0.1 * n) for n in range(4, 9)]
    assert drawn(static, past, 9) == drawn(static, past, 9)
    assert drawn(static, past, 9) != drawn(static, past[:2], 9)
    strangers = [best(), a_trial(2, 0.99, parameters=SEARCHED)]
    assert drawn(static, [*strangers, *past], 9) == drawn(static, past, 9)


def test_runs_of_a_setting_on_further_seeds_are_wanted_of_opponents_too() -> None:
    study = a_study(SPACE, seeds_per_trial=2)
    static = opponents(study, best())["static"]
    (again,) = static.wanting([trial(4, static, 0.5)])
    assert (again.kind, again.label, again.of) == ("comparison", STATIC, 4)
    assert static.wanting([trial(4, static, 0.5), trial(5, static, 0.5, of=4)]) == []


def test_the_best_setting_of_each_opponent_is_confirmed_on_the_seeds_of_the_best_trial() -> None:
    study = a_study(SPACE)
    searches = opponents(study, best())
    static, plain = searches["static"], searches["plain_lora"]
    trials = [best(), trial(4, static, 0.5), trial(5, static, 0.7), trial(6, plain, None, state="failed")]
    again = opponents_again(study, best(), trials, 3)
    assert {s.label for s in again} == {STATIC}
    assert [s.seed for s in again] == [s.seed for s in confirmations(study, [best()], 1, 3)]
    assert all(s.parameters == trials[2].parameters and s.kind == "confirm" for s in again)


def test_what_was_spent_is_what_last_reports_say() -> None:
    reports = ((5, {"run_seconds": 2.0}), (10, {"run_seconds": 5.0}))
    assert spent([a_trial(0, reports=reports), a_trial(1), a_trial(2, reports=reports[:1])]) == 7.0


# What is written.


def described(**opponents: Any) -> dict[str, Any]:
    return {**DESCRIBED, "sweep": {"opponents": opponents}}


RANKS = {"type": "int", "low": 1, "high": 2}


@pytest.mark.parametrize(
    ("opponents", "said"),
    [
        ({"static": {"space": {"routing.lorra.rank": RANKS}}}, "did you mean routing.lora"),
        ({"static": {"space": {LOW: {"type": "log", "low": 1.0, "high": 0.1}}}}, "needs low < high"),
        ({"plain_lora": {"settings": {"routing.lora.rnk": 3}}}, "no such path"),
        ({"plain_lora": {"settings": {"task.seed": 3}}}, "the same questions on the same machines"),
        ({"architecture_only": {"space": {"routing.low_level.hidden": {"type": "choice", "values": [[3]]}}}}, "hidden"),
        ({"statik": None}, "did you mean static"),
    ],
)  # fmt: skip
def test_what_an_opponent_cannot_be_is_refused_before_anything_runs(opponents: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_study(described(**opponents))


def test_a_sweep_that_has_begun_may_get_other_opponents(tmp_path: Path) -> None:
    open_sweep(tmp_path, a_study(SPACE), resume=False).close()
    changed = a_study(SPACE, opponents={"static": None})
    open_sweep(tmp_path, changed, resume=False).close()
    assert dump(Journal(tmp_path).study()) == dump(changed)
