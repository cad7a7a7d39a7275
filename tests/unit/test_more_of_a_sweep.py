"""Settings tried first, another sweep's results, several seeds a setting, more steps: what each refuses and does, and
that a kill anywhere changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from replays import replay_experiment, skilled
from sweeps import DESCRIBED, a_study, a_trial, write

from haps_search.config.load import read_study
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.local import LocalEngine
from haps_search.errors import CheckpointError, ConfigError
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.report.noise import noise_section, noise_verdict, spread
from haps_search.report.source import Source
from haps_search.search.loop import RunResult, run
from haps_search.sweep.events import AttemptStarted, TrialEnded, TrialRecord, fold, written_ending
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.prior import prior_of
from haps_search.sweep.ranking import best_first
from haps_search.sweep.repeats import searched, wanting
from haps_search.sweep.suggestions import suggestion
from haps_search.sweep.telling import optuna_study
from haps_search.tasks.build import build_task
from haps_search.verbs import sweep as verb
from haps_search.verbs.events import Event, Said
from haps_search.verbs.extend import write_down

RATE, LOW, HIDDEN = "learning.learning_rate.high", "routing.low_level.type", "routing.low_level.hidden"
SPACE: dict[str, Any] = {
    RATE: {"type": "log", "low": 1e-4, "high": 1e-2},
    HIDDEN: {"type": "choice", "values": [[8], [8, 8], [16]], "when": {LOW: "generated"}},
    LOW: {"type": "choice", "values": ["none", "generated"]},
}
CONSTANT = {"learning": {"schedule": {"type": "constant"}}}


def refused(tmp_path: Path, **sweep: Any) -> str:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**DESCRIBED, "space": SPACE, "sweep": sweep}))
    with pytest.raises(ConfigError) as caught:
        read_study(file)
    return str(caught.value)


# Tried first.

FIRST = [{RATE: 3e-3, LOW: "generated", HIDDEN: [8, 8]}, {LOW: "none"}]


@pytest.mark.parametrize("sampler", [{"type": "tpe", "startup_trials": 2}, {"type": "random"}], ids=lambda s: s["type"])
def test_what_is_enqueued_comes_first_and_the_rest_of_it_is_drawn(sampler: Mapping[str, Any]) -> None:
    study = a_study(SPACE, sampler=sampler, enqueue=FIRST)
    first = suggestion(study, [], 0)
    assert first == FIRST[0]
    second = suggestion(study, [a_trial(0, 0.1, parameters=FIRST[0])], 1)
    assert second is not None
    assert second[LOW] == "none"
    assert HIDDEN not in second
    assert 1e-4 <= second[RATE] <= 1e-2
    both = [a_trial(n, 0.1, parameters=p) for n, p in enumerate((FIRST[0], second))]
    free = a_study(SPACE, sampler=sampler)
    assert suggestion(study, both, 2) == suggestion(free, both, 2)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"learning.learning_rat.high": 1e-3}, "did you mean learning.learning_rate.high?"),
        ({RATE: 0.1}, "got 0.1, which the space cannot draw"),
        ({RATE: "fast"}, "which the space cannot draw"),
        ({LOW: "static"}, 'got "static", which the space cannot draw'),
        ({HIDDEN: [8]}, 'counts only when routing.low_level.type is "generated": name that here too'),
        ({HIDDEN: [8], LOW: "none"}, 'does not count when routing.low_level.type is "none"'),
    ],
)
def test_a_setting_outside_the_space_is_refused(setting: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    text = refused(tmp_path, enqueue=[setting])
    assert "sweep.enqueue.0" in text
    assert said in text


def test_a_setting_twice_is_refused(tmp_path: Path) -> None:
    assert "is the same as number 0" in refused(tmp_path, enqueue=[FIRST[1], FIRST[1]])


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"sampler": {"type": "gp"}}, "gp cannot search a space with conditions"),
        ({"sampler": {"type": "cmaes"}}, "cmaes searches floats and integers only, got the choice routing.low_level"),
        ({"sampler": {"type": "tpe", "group": True}}, "needs multivariate: true"),
        ({"sampler": {"type": "grid"}, "enqueue": [{LOW: "none"}]}, "a grid tries every setting anyway"),
        ({"seeds_per_trial": 2, "scheduler": {"type": "asha"}}, "asha stops single runs"),
    ],
)
def test_a_search_that_cannot_be_is_refused_with_the_reason(
    sweep: Mapping[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path, **sweep)


# Another sweep's results.


def test_results_of_another_sweep_count_where_everything_else_is_equal() -> None:
    """The other sweep held the low level that this one searches, and this one no longer searches what it did."""
    other = a_study({RATE: SPACE[RATE]}, experiment={"routing": {"low_level": {"type": "none"}}})
    trials = [
        a_trial(0, 0.5, parameters={RATE: 3e-3}),
        a_trial(1, 0.9, parameters={RATE: 9e-3}),
        a_trial(2, 0.2, state="stopped", parameters={RATE: 1e-3}),
        a_trial(3, 0.7, parameters={RATE: 2e-4}, seed=77),
    ]
    narrow = {**SPACE, RATE: {"type": "log", "low": 1e-4, "high": 5e-3}}
    study = a_study(narrow, experiment={"routing": {"low_level": {"type": "none"}}})
    prior = prior_of("old", other, trials, study)
    assert [k.trial for k in prior.known] == [0, 3]
    assert prior.known[0].parameters == {LOW: "none", RATE: 3e-3}
    assert prior.left_out == {"it is stopped": 1, f"the space cannot draw {RATE} = 0.009": 1}
    told = optuna_study(study, [], prior.known).trials
    assert [(t.value, t.params[RATE]) for t in told] == [(0.5, 3e-3), (0.7, 2e-4)]


TEMPERATURE, ENTROPY, TARGETS = "run.sampling.temperature", "learning.entropy_bonus", "routing.lora.targets"


@pytest.mark.parametrize(
    ("name", "distribution", "drawn"),
    [
        (ENTROPY, {"type": "choice", "values": [0, 0.01, 1]}, [0, 0.01, 1]),
        (TEMPERATURE, {"type": "int", "low": 1, "high": 3}, [1, 2]),
        (TARGETS, {"type": "choice", "values": ["all-linear", ["o_proj"]]}, [["o_proj"]]),
        (
            "routing.low_level",
            {"type": "choice", "values": [{"type": "none"}, {"type": "generated", "hidden": [8]}]},
            [{"type": "generated", "hidden": [8]}, {"type": "none"}],
        ),
        (
            "learning.learning_rate",
            {"type": "choice", "values": [{"high": 1e-3}, {"high": 1e-2}]},
            [{"high": 1e-2}],
        ),
    ],
    ids=["integers among floats", "an integer range of floats", "a list", "mappings with a type", "mappings"],
)
def test_the_same_study_knows_every_result_in_the_words_of_its_space(
    name: str, distribution: Mapping[str, Any], drawn: list[Any]
) -> None:
    """What the experiment fills in and turns into floats is what the space drew."""
    study = a_study({name: distribution})
    trials = [a_trial(n, 0.5, parameters={name: value}) for n, value in enumerate(drawn)]
    known = prior_of("same", study, trials, study).known
    assert [k.parameters for k in known] == [t.parameters for t in trials]
    assert [type(k.parameters[name]) for k in known] == [type(value) for value in drawn]


def test_a_choice_that_fills_in_otherwise_is_no_knowledge() -> None:
    name = "routing.low_level"
    other = a_study({name: {"type": "choice", "values": [{"type": "generated", "hidden": [8]}]}})
    study = a_study({name: {"type": "choice", "values": [{"type": "none"}, {"type": "generated", "hidden": [16]}]}})
    trials = [a_trial(0, 0.5, parameters={name: {"type": "generated", "hidden": [8]}})]
    with pytest.raises(ConfigError, match=r"the space cannot draw routing\.low_level"):
        prior_of("old", other, trials, study)


def test_another_experiment_s_results_are_no_knowledge() -> None:
    other = a_study(SPACE, experiment={"run": {"steps": 500}})
    trials = [a_trial(0, 0.5, parameters={RATE: 3e-3, LOW: "none"})]
    with pytest.raises(ConfigError, match=r"--like old: .*run.steps: stored 500, now 20.*enqueue"):
        prior_of("old", other, trials, a_study(SPACE))


def test_what_was_known_is_journalled_with_the_sweep_s_first_event_and_never_again(tmp_path: Path) -> None:
    study = a_study({RATE: SPACE[RATE]}, sampler={"type": "tpe", "startup_trials": 2})
    found = [a_trial(n, -abs(n - 4.0), parameters={RATE: 10 ** -(2.2 + n / 6)}) for n in range(9)]
    prior = prior_of("old", study, found, study)
    journal = open_sweep(tmp_path / "new", study, False, prior)
    expected = suggestion(study, [], 0, prior.known)
    assert expected != suggestion(study, [], 0)
    journal.close()
    for again in (None, prior):  # resumed, or begun again by the same command after a kill
        taken = open_sweep(tmp_path / "new", study, False, again)
        assert taken.known() == prior.known
        assert suggestion(study, taken.trials(), 0, taken.known()) == expected
        taken.close()
    lines = (tmp_path / "new" / "journal.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["known"]) for line in lines] == [9, 0, 0]
    with pytest.raises(ConfigError, match="--like other: it was begun old"):
        open_sweep(tmp_path / "new", study, False, replace(prior, sweep="other"))


@pytest.mark.parametrize("became", ["extended", "deleted"])
def test_the_same_command_goes_on_whatever_became_of_the_other_sweep(
    became: str, begun: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begun.study()
    prior = prior_of("s", study, begun.trials(), study)
    open_sweep(tmp_path / "new", study, False, prior).close()
    if became == "extended":
        write_down(begun, steps=40)
    else:
        shutil.rmtree(begun.folder)
    driven: list[Any] = []
    monkeypatch.setattr(verb, "_drive", lambda *given: driven.append(given[-1]))
    events: list[Event] = []
    verb.sweep(study, "new", tmp_path, events.append, like="s")
    assert driven == [None]
    assert events == [Said("new was begun with 2 results of s, and keeps them")]
    open_sweep(tmp_path / "new", study, False, driven[0]).close()
    assert Journal(tmp_path / "new").known() == prior.known
    with pytest.raises(ConfigError):
        verb.sweep(study, "newer", tmp_path, events.append, like="s")


# Taken up by the file that it was begun with.


@pytest.mark.parametrize(("changed", "kept"), [({}, True), ({"startup_trials": 9}, False)])
def test_a_sweep_from_before_stopped_trials_were_told_goes_on_as_it_was_begun(
    changed: Mapping[str, Any], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_sweep(tmp_path / "old", a_study({RATE: SPACE[RATE]}), resume=False)
    journal.close()
    started = json.loads(journal.file.read_text())
    del started["study"]["sweep"]["sampler"]["stopped"]
    journal.file.write_text(json.dumps(started) + "\n")
    driven: list[Study] = []
    monkeypatch.setattr(verb, "_drive", lambda study, *_: driven.append(study))
    events: list[Event] = []
    verb.sweep(a_study({RATE: SPACE[RATE]}, sampler={"type": "tpe", **changed}), "old", tmp_path, events.append)
    if not kept:
        assert events == []
        with pytest.raises(ConfigError, match=r"sampler.startup_trials: begun with 5, now 9"):
            open_sweep(tmp_path / "old", driven[0], resume=False)
        return
    assert events == [Said("old keeps sampler.stopped: complete, with which it was begun, not pruned")]
    open_sweep(tmp_path / "old", driven[0], resume=False).close()
    assert Journal(tmp_path / "old").study() == driven[0]


# Several seeds a setting.


def three_seeds(number: int, *rewards: float, rate: float = 1e-3, **changes: Any) -> list[TrialRecord]:
    runs = [a_trial(number + i, r, parameters={RATE: rate}, seed=i, **changes) for i, r in enumerate(rewards)]
    return [runs[0], *(replace(r, of=number) for r in runs[1:])]


def test_the_mean_over_seeds_is_what_is_searched_and_ranked() -> None:
    study = a_study({RATE: SPACE[RATE]}, seeds_per_trial=3)
    trials = [*three_seeds(0, 0.9, 0.1, 0.2), *three_seeds(3, 0.5, 0.5, 0.5, rate=2e-3), *three_seeds(6, 0.95, 0.9)]
    assert [(t.number, t.state) for t in searched(trials, 3)] == [(0, "finished"), (3, "finished"), (6, "running")]
    assert [t.number for t in best_first(study, trials)] == [3, 0]
    told = optuna_study(study, trials).trials
    assert [t.state.name for t in told] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert told[0].value == pytest.approx(0.4)


def test_a_setting_that_failed_on_one_seed_has_failed() -> None:
    runs = three_seeds(0, 0.9, 0.8, 0.7)
    runs[1] = replace(runs[1], state="failed", metrics={}, error="Diverged")
    (setting,) = searched(runs, 3)
    assert (setting.state, setting.error) == ("failed", "Diverged")
    assert best_first(a_study({RATE: SPACE[RATE]}, seeds_per_trial=3), runs) == []


def test_runs_that_are_lacking_follow_from_the_journal_and_have_the_same_seeds_for_all() -> None:
    study = a_study({RATE: SPACE[RATE]}, seeds_per_trial=3)
    begun = [a_trial(0, 0.5, parameters={RATE: 1e-3}), a_trial(1, 0.5, parameters={RATE: 2e-3})]
    lacking = wanting(study, begun)
    assert [(s.of, s.parameters[RATE]) for s in lacking] == [(0, 1e-3), (0, 1e-3), (1, 2e-3), (1, 2e-3)]
    assert [s.seed for s in lacking[:2]] == [s.seed for s in lacking[2:]]
    assert len({11, *(s.seed for s in lacking)}) == 3
    rest = [*begun, a_trial(2, 0.4, parameters={RATE: 1e-3}, seed=lacking[0].seed, of=0)]
    assert [(s.of, s.seed) for s in wanting(study, rest)] == [(s.of, s.seed) for s in lacking[1:]]


def a_source(study: Study, trials: list[TrialRecord]) -> Source:
    return Source("s", Path("s"), "sweep", study.experiment, study, None, None, tuple(trials), {}, {})


def test_a_sweep_that_ranked_noise_is_told_from_one_that_did_not() -> None:
    study = a_study({RATE: SPACE[RATE]}, seeds_per_trial=3)
    apart = [t for i in range(4) for t in three_seeds(3 * i, *(i / 4 + d for d in (-0.01, 0.0, 0.01)))]
    found = spread(a_source(study, apart))
    assert found is not None
    assert found.between_seeds == pytest.approx(0.01)
    assert found.between_settings == pytest.approx(0.25 * (5 / 3) ** 0.5)
    assert noise_verdict(a_source(study, apart))[0].startswith("Settings differ by more than their seeds do")
    alike = [t for i in range(4) for t in three_seeds(3 * i, 0.2, 0.5 + i / 1000, 0.8)]
    assert "has only ranked noise" in noise_verdict(a_source(study, alike))[0]
    assert spread(a_source(a_study({RATE: SPACE[RATE]}), apart)) is None


@pytest.mark.parametrize(("mode", "order"), [("max", [6, 3, 0]), ("min", [0, 3, 6])])
def test_the_table_of_settings_begins_with_the_best(mode: str, order: list[int]) -> None:
    study = a_study({RATE: SPACE[RATE]}, seeds_per_trial=3, objectives=[{"metric": "validation_reward", "mode": mode}])
    trials = [t for i in range(3) for t in three_seeds(3 * i, *(i + d for d in (-0.01, 0.0, 0.01)))]
    section = noise_section(a_source(study, trials))
    assert section is not None
    assert [row[0] for row in section.tables[0].rows] == order


# More steps.


def test_more_steps_open_what_had_finished_and_only_that() -> None:
    study = a_study({RATE: SPACE[RATE]}, experiment=CONSTANT)
    started = _events(study, steps=20)
    trials = [a_trial(0, 0.5), a_trial(1, 0.4, state="stopped"), a_trial(2, None, state="failed")]
    before = [*started, *_of(trials)]
    same = fold([*before, *_events(study, steps=20)])
    assert [t.state for t in same] == ["finished", "stopped", "failed"]
    longer = [*before, *_events(study, steps=40)]
    assert [t.state for t in fold(longer)] == ["running", "stopped", "failed"]
    again = [*longer, AttemptStarted(0, 2), TrialEnded(0, "finished", {"validation_reward": 0.7})]
    assert fold(again)[0].metrics == {"validation_reward": 0.7}
    assert [t.state for t in fold([*again, *_events(study, steps=40)])] == ["finished", "stopped", "failed"]


def _events(study: Study, steps: int) -> list[Any]:
    from haps_search.config.load import dump
    from haps_search.sweep.events import SweepStarted

    values = dump(study)
    values["experiment"]["run"]["steps"] = steps
    return [SweepStarted(values, "f", "v", 0.0)]


def _of(trials: list[TrialRecord]) -> list[Any]:
    from haps_search.sweep.events import TrialSuggested

    events: list[Any] = []
    for t in trials:
        assert t.state in ("finished", "stopped", "failed")
        events += [TrialSuggested(t.number, t.parameters, t.seed), AttemptStarted(t.number, 1)]
        events += [TrialEnded(t.number, t.state, t.metrics)]
    return events


@pytest.fixture
def begun(tmp_path: Path) -> Journal:
    journal = open_sweep(tmp_path / "s", a_study({RATE: SPACE[RATE]}, experiment=CONSTANT, trials=4), resume=False)
    write(journal, a_trial(0, 0.5, parameters={RATE: 1e-3}), a_trial(1, 0.6, parameters={RATE: 2e-3}))
    journal.close()
    return journal


def test_extending_is_one_event_after_which_a_resume_goes_on(begun: Journal) -> None:
    lines = begun.file.read_bytes().count(b"\n")
    study = write_down(begun, trials=8, steps=50)
    assert begun.file.read_bytes().count(b"\n") == lines + 1
    assert begun.study() == study
    assert (study.sweep.trials, study.experiment.run.steps) == (8, 50)
    assert [t.state for t in begun.trials()] == ["running", "running"]
    open_sweep(begun.folder, study, resume=True).close()
    with pytest.raises(ConfigError, match=r"run.steps: begun with 50, now 60"):
        open_sweep(begun.folder, _stepping(study, 60), resume=True)


def _stepping(study: Study, steps: int) -> Study:
    run = study.experiment.run.model_copy(update={"steps": steps})
    return study.model_copy(update={"experiment": study.experiment.model_copy(update={"run": run})})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "--trials N, --steps N, or both"),
        ({"trials": 4}, "--trials: has 4, got 4; they are counted in all"),
        ({"steps": 20}, "--steps: runs have 20, got 20; they are counted in all"),
    ],
)
def test_what_is_no_more_than_before_is_refused(begun: Journal, asked: Mapping[str, int], said: str) -> None:
    whole = begun.file.read_bytes()
    with pytest.raises(ConfigError, match=said):
        write_down(begun, **asked)
    assert begun.file.read_bytes() == whole


def test_a_cosine_that_ended_is_not_prolonged(tmp_path: Path) -> None:
    journal = open_sweep(tmp_path / "s", a_study({RATE: SPACE[RATE]}), resume=False)
    write(journal, a_trial(0, 0.5, parameters={RATE: 1e-3}))
    journal.close()
    with pytest.raises(ConfigError, match="learning rate of trial 0 falls as a cosine that ends at step 20"):
        write_down(journal, steps=50)


def play(experiment: Experiment, folder: Path) -> RunResult:
    async def played() -> RunResult:
        task = build_task(experiment.task)
        engine = LocalEngine.build(experiment, task)
        try:
            return await run(engine, task, experiment, RunFolder(folder, experiment))
        finally:
            await engine.close()

    return asyncio.run(played())


def test_a_run_given_more_steps_goes_on_from_its_last_and_is_the_uninterrupted_one(tmp_path: Path) -> None:
    table = skilled(tmp_path / "table.jsonl", count=120)

    def of(steps: int) -> Experiment:
        return replay_experiment(table, run__steps=steps, learning__schedule={"type": "constant"})

    folder = tmp_path / "grown"
    play(of(20), folder)
    assert written_ending(0, folder, 20) is not None
    assert written_ending(0, folder, 60) is None
    grown, whole = play(of(60), folder), play(of(60), tmp_path / "whole")
    assert (grown.steps, grown.metrics["validation_reward"]) == (60, whole.metrics["validation_reward"])
    records = read_records(folder / "metrics.jsonl")
    assert [r.step for r in records] == list(range(1, 61))
    apart = {"step_seconds", "rollout_seconds", "run_seconds"}
    for one, other in zip(records, read_records(tmp_path / "whole" / "metrics.jsonl"), strict=True):
        assert {k: v for k, v in one.metrics.items() if k not in apart} == {
            k: v for k, v in other.metrics.items() if k not in apart
        }
    assert RunFolder.experiment_of(folder).run.steps == 60
    with pytest.raises(CheckpointError, match=r"beyond run.steps = 40"):
        RunFolder(folder, of(40)).latest()


def test_a_run_under_a_cosine_is_another_run_with_more_steps(tmp_path: Path) -> None:
    table = skilled(tmp_path / "table.jsonl", count=120)
    play(replay_experiment(table, run__steps=20), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"run\.steps"):
        play(replay_experiment(table, run__steps=40), tmp_path / "run")
