"""What a sweep tries next follows from its journal alone, so a kill changes nothing. No Ray is started."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import ray
from ray.exceptions import ActorDiedError, ObjectStoreFullError, RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from replays import replay_experiment
from sweeps import a_study, a_trial, write

from haps_search.config.distributions import Choice
from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.config.samplers import Asha
from haps_search.config.sweep import Study
from haps_search.engines.cluster.session import Session, TableSession
from haps_search.engines.cluster.trial import METRICS
from haps_search.errors import CandidateError, PoolError
from haps_search.errors import Kind as ErrorKind
from haps_search.faults import policy
from haps_search.faults.kinds import kind_of
from haps_search.sweep import tune
from haps_search.sweep.events import (
    AttemptBroke,
    AttemptStarted,
    TrialEnded,
    TrialRecord,
    TrialReported,
    TrialSuggested,
)
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import attempt_folder, trial_folder
from haps_search.sweep.opponents import Search
from haps_search.sweep.settings import Setting
from haps_search.sweep.suggestions import suggestion
from haps_search.sweep.telling import optuna_study
from haps_search.sweep.tune import settle

RATE, RANK, HIDDEN, LOW = (
    "learning.learning_rate.high", "routing.lora.rank", "routing.low_level.hidden", "routing.low_level.type",
)  # fmt: skip
SPACE: dict[str, Any] = {
    RATE: {"type": "log", "low": 1e-4, "high": 1e-2},
    RANK: {"type": "int", "low": 2, "high": 16, "step": 2},
    HIDDEN: {"type": "choice", "values": [[8], [8, 8], [16]], "when": {LOW: "generated"}},
    LOW: {"type": "choice", "values": ["none", "generated"]},
}
PLAIN = {RATE: SPACE[RATE]}
TPE = {"type": "tpe", "startup_trials": 3}
SAMPLERS = [{"type": "random"}, TPE]


def as_reward(parameters: Mapping[str, Any]) -> float:
    """Best at a rate of 1e-3 and a large rank."""
    return -abs(math.log10(parameters[RATE]) + 3) + parameters.get(RANK, 0) / 16


def searched(study: Study, count: int) -> list[TrialRecord]:
    """A sweep, trial after trial."""
    trials: list[TrialRecord] = []
    for number in range(count):
        parameters = suggestion(study, trials, number)
        assert parameters is not None
        trials.append(a_trial(number, as_reward(parameters), parameters=parameters))
    return trials


def through_json(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [replace(t, parameters=json.loads(json.dumps(dict(t.parameters)))) for t in trials]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s["type"])
def test_the_same_journal_gives_the_same_suggestion(sampler: Mapping[str, Any]) -> None:
    study = a_study(SPACE, sampler=sampler)
    trials = searched(study, 6)
    assert suggestion(study, trials, 6) == suggestion(study, through_json(trials), 6)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s["type"])
def test_numbers_and_seeds_draw_differently(sampler: Mapping[str, Any]) -> None:
    study = a_study(PLAIN, sampler=sampler)
    trials = searched(study, 5)
    other = a_study(PLAIN, sampler=sampler, seed=1)
    drawn = [s[RATE] for s in (suggestion(study, trials, n) for n in range(5, 10)) if s]
    assert len({*drawn, (suggestion(other, trials, 5) or {})[RATE]}) == 6


def test_random_draws_do_not_look_at_results() -> None:
    study = a_study(SPACE, sampler={"type": "random"})
    worse = [replace(t, metrics={"validation_reward": -1.0}) for t in searched(study, 4)]
    assert suggestion(study, worse, 4) == suggestion(study, searched(study, 4), 4)


def test_tpe_looks_at_results_and_finds_the_better_half() -> None:
    study = a_study(PLAIN, sampler=TPE)
    late = [t.parameters[RATE] for t in searched(study, 40)[20:]]
    near = sum(10**-3.5 < rate < 10**-2.5 for rate in late)
    assert near > 12, "half of these would be chance"


def test_a_killed_search_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    study = a_study(SPACE, sampler=TPE)
    undisturbed = searched(study, 12)
    journal = open_sweep(tmp_path / "killed", study, resume=False)
    write(journal, *undisturbed[:7])
    journal.close()
    read_back = Journal(tmp_path / "killed")
    again = read_back.trials()
    for number in range(7, 12):
        parameters = suggestion(read_back.study(), again, number)
        assert parameters is not None
        again.append(a_trial(number, as_reward(parameters), parameters=parameters))
    assert [t.parameters for t in again] == [t.parameters for t in undisturbed]


def test_only_search_trials_count_for_what_comes_next() -> None:
    study = a_study(SPACE, sampler=TPE)
    trials = searched(study, 5)
    others = [a_trial(5, 0.9, kind="comparison", parameters={"routing.low_level": {"type": "none"}})]
    assert suggestion(study, [*trials, *others], 6) == suggestion(study, trials, 6)


def test_running_trials_are_known_to_tpe() -> None:
    study = a_study(PLAIN, sampler=TPE)
    trials = searched(study, 8)
    crowd = [
        a_trial(8 + n, state="running", parameters={RATE: (suggestion(study, trials, 12) or {})[RATE]})
        for n in range(4)
    ]
    assert suggestion(study, [*trials, *crowd], 12) != suggestion(study, trials, 12)
    states = [t.state for t in optuna_study(study, [*trials, *crowd]).trials]
    assert states[8:] == [optuna.trial.TrialState.RUNNING] * 4


def test_inactive_parameters_are_absent_and_lists_come_out_as_lists() -> None:
    study = a_study(SPACE, sampler={"type": "random"})
    trials = searched(study, 20)
    assert {t.parameters[LOW] for t in trials} == {"none", "generated"}
    for trial in trials:
        assert (HIDDEN in trial.parameters) == (trial.parameters[LOW] == "generated")
        assert trial.parameters.get(HIDDEN, [8]) in ([8], [8, 8], [16])
        assert trial.parameters[RANK] % 2 == 0


def test_optunas_study_holds_what_was_drawn() -> None:
    study = a_study(SPACE, sampler={"type": "random"})
    trials = searched(study, 12)
    for trial, frozen in zip(trials, optuna_study(study, through_json(trials)).trials, strict=True):
        assert set(frozen.params) == set(trial.parameters)
        assert frozen.params[RATE] == trial.parameters[RATE]
        assert frozen.value == trial.metrics["validation_reward"]
        assert frozen.user_attrs == {"trial": trial.number}
        if HIDDEN in trial.parameters:
            assert json.loads(frozen.params[HIDDEN]) == trial.parameters[HIDDEN]


@pytest.mark.parametrize(
    "values",
    [["1", 1], [1, "1"], [["a"], '["a"]'], ['["a"]', ["a"]], [True, 1], [None, "null"], ["null", None]],
    ids=str,
)
def test_choices_that_look_alike_stay_apart(values: list[Any]) -> None:
    space = {LOW: Choice(type="choice", values=tuple(values))}
    study = a_study().model_copy(update={"space": space})
    trials = [a_trial(n, 0.5, parameters={LOW: value}) for n, value in enumerate(values)]
    first, second = (t.params[LOW] for t in optuna_study(study, trials).trials)
    assert (type(first), first) != (type(second), second)
    distribution = optuna_study(study, trials).trials[0].distributions[LOW]
    assert [first, second] == list(distribution.choices)


def test_a_grid_is_walked_once_and_runs_out() -> None:
    study = a_study(
        {LOW: SPACE[LOW], HIDDEN: SPACE[HIDDEN], RANK: {"type": "choice", "values": [2, 4]}},
        sampler={"type": "grid"},
    )
    trials: list[TrialRecord] = []
    while (parameters := suggestion(study, trials, len(trials))) is not None:
        trials.append(a_trial(len(trials), state="failed", parameters=parameters))
    assert len(trials) == 2 * (1 + 3)
    assert len({json.dumps(dict(t.parameters), sort_keys=True) for t in trials}) == 8


def states_of(study: Study, *trials: TrialRecord) -> list[str]:
    return [t.state.name for t in optuna_study(study, trials).trials]


def test_only_finite_ends_count_as_complete() -> None:
    given = {"parameters": {RATE: 1e-3}}
    assert states_of(
        a_study(PLAIN, sampler={**TPE, "stopped": "complete"}),
        a_trial(0, 0.5, **given),
        a_trial(1, 0.5, state="stopped", **given),
        a_trial(2, 0.5, state="failed", **given),
        a_trial(3, math.nan, **given),
        a_trial(4, None, **given),
        a_trial(5, None, state="suggested", **given),
    ) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "FAIL", "RUNNING"]


def test_several_objectives_have_their_own_directions() -> None:
    study = a_study(
        PLAIN, objectives=[{"metric": "validation_reward"}, {"metric": "validation_tokens", "mode": "min"}], sampler=TPE
    )
    trials = [
        a_trial(n, parameters={RATE: 10 ** -(3 + n / 8)}, metrics={"validation_reward": r, "validation_tokens": t})
        for n, (r, t) in enumerate([(0.9, 9.0), (0.5, 3.0), (0.4, 4.0), (0.3, 8.0)])
    ]
    built = optuna_study(study, trials)
    assert [d.name for d in built.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert sorted(t.user_attrs["trial"] for t in built.best_trials) == [0, 1]
    assert suggestion(study, trials, 4) is not None


# Handing out.

PROFILE = ClusterProfile(name="test")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_sweep(tmp_path / "s", a_study(PLAIN, trials=9), resume=False)
    yield opened
    opened.close()


def search(journal: Journal, wanted: Sequence[Setting] | int, study: Study | None = None) -> tune._JournalSearch:
    study = study or journal.study()
    unfinished = [t for t in journal.trials() if not t.ended]
    return tune._JournalSearch(
        journal, study, Session("haps-s", PROFILE, broker=None), unfinished, wanted, Search(study)
    )


def reported(step: int, **metrics: float) -> dict[str, Any]:
    return {"step": step, **{METRICS + k: v for k, v in metrics.items()}, "training_iteration": 7, "done": False}


def test_unfinished_trials_come_first_and_as_they_were_suggested(journal: Journal) -> None:
    left = a_trial(1, state="running", parameters={RATE: 3e-3}, seed=77, attempts=2)
    write(journal, a_trial(0, 0.5, parameters={RATE: 1e-3}), left)
    handing = search(journal, 1)
    config = handing.suggest("tune-a")
    assert config["number"] == 1
    experiment = Experiment.model_validate(config["experiment"])
    assert experiment.learning.learning_rate.high == 3e-3
    assert experiment.run.seed == 77
    assert config["folder"] == str(attempt_folder(journal.folder, 1, 3))
    assert config["former"] == str(trial_folder(journal.folder, 1))
    assert config["namespace"] == "haps-s"
    assert ClusterProfile.model_validate(config["profile"]) == PROFILE
    assert list(journal.events())[-1] == AttemptStarted(1, 3)
    assert handing.suggest("tune-b")["number"] == 2
    assert handing.suggest("tune-c") is None, "one of the two may break"
    for name in ("tune-a", "tune-b"):
        handing.on_trial_complete(name, reported(20, validation_reward=0.5))
    assert handing.suggest("tune-c") == Searcher.FINISHED


def test_a_new_trial_is_in_the_journal_before_tune_hears_of_it(journal: Journal) -> None:
    config = search(journal, 1).suggest("tune-a")
    suggested, started = list(journal.events())[-2:]
    assert isinstance(suggested, TrialSuggested)
    assert (suggested.number, suggested.seed, suggested.kind) == (0, 11, "search")
    assert suggested.parameters == suggestion(journal.study(), [], 0)
    assert started == AttemptStarted(0, 1)
    assert Experiment.model_validate(config["experiment"]).learning.learning_rate.high == suggested.parameters[RATE]


def test_two_at_a_time_get_two_suggestions(journal: Journal) -> None:
    handing = search(journal, 2)
    handing.suggest("a")
    handing.suggest("b")
    first, second = journal.trials()
    assert first.parameters != second.parameters


def test_a_seed_that_is_searched_over_is_the_runs_seed(tmp_path: Path) -> None:
    study = a_study({"run.seed": {"type": "int", "low": 100, "high": 999}}, sampler={"type": "random"})
    journal = open_sweep(tmp_path / "seeds", study, resume=False)
    config = search(journal, 1).suggest("a")
    (trial,) = journal.trials()
    journal.close()
    assert config["experiment"]["run"]["seed"] == trial.parameters["run.seed"] == trial.seed


def test_wanted_settings_are_handed_out_in_order_with_kind_and_label(journal: Journal) -> None:
    write(journal, a_trial(0, 0.5, parameters={RATE: 1e-3}))
    settings = [Setting({RATE: 2e-3}, s, "confirm", "trial 0") for s in (5, 6)]
    handing = search(journal, settings)
    assert [handing.suggest(f"t{n}")["number"] for n in range(2)] == [1, 2]
    assert handing.suggest("t2") is None
    assert [(t.seed, t.kind, t.label) for t in journal.trials()[1:]] == [
        (5, "confirm", "trial 0"),
        (6, "confirm", "trial 0"),
    ]


def test_a_grid_that_ran_out_ends_the_handing_out(tmp_path: Path) -> None:
    study = a_study({RANK: {"type": "choice", "values": [2, 4]}}, sampler={"type": "grid"}, trials=5)
    journal = open_sweep(tmp_path / "grid", study, resume=False)
    handing = search(journal, 5)
    numbers = [handing.suggest(f"t{n}") for n in range(3)]
    journal.close()
    assert [n["number"] for n in numbers[:2]] == [0, 1]
    assert numbers[2] is None
    assert handing.unbegun == 0


def test_reports_are_journalled_once(journal: Journal) -> None:
    handing = search(journal, 1)
    handing.suggest("a")
    handing.on_trial_result("a", reported(4, validation_reward=0.25))
    handing.on_trial_result("a", reported(4, validation_reward=0.25))
    handing.on_trial_result("a", {"done": True, "trial_id": "a"})
    handing.on_trial_result("a", reported(8, validation_reward=0.5))
    assert [e for e in journal.events() if isinstance(e, TrialReported)] == [
        TrialReported(0, 4, {"validation_reward": 0.25}),
        TrialReported(0, 8, {"validation_reward": 0.5}),
    ]


def test_a_run_that_wrote_its_result_has_finished(journal: Journal) -> None:
    handing = search(journal, 1)
    config = handing.suggest("a")
    folder = Path(config["folder"])
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"metrics": {"validation_reward": 0.75}}')
    handing.on_trial_complete("a", reported(20, validation_reward=0.5))
    (trial,) = journal.trials()
    assert (trial.state, trial.metrics) == ("finished", {"validation_reward": 0.75})
    assert trial.reports == ((20, {"validation_reward": 0.5}),)


def test_a_run_that_the_scheduler_ended_was_stopped_at_the_report_that_did_it(journal: Journal) -> None:
    handing = search(journal, 1)
    handing.suggest("a")
    handing.on_trial_result("a", reported(4, validation_reward=0.25))
    handing.on_trial_complete("a", reported(8, validation_reward=0.125))
    (trial,) = journal.trials()
    assert (trial.state, trial.metrics) == ("stopped", {"validation_reward": 0.125})
    assert trial.reports[-1] == (8, {"validation_reward": 0.125})


def test_a_run_that_wrote_an_error_has_failed(journal: Journal) -> None:
    handing = search(journal, 1)
    folder = Path(handing.suggest("a")["folder"])
    folder.mkdir(parents=True)
    (folder / "error.json").write_text('{"kind": "DataError", "message": "row 3"}')
    handing.on_trial_complete("a", {})
    assert (journal.trials()[0].state, journal.trials()[0].error) == ("failed", "DataError: row 3")


def gone_with_its_node() -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = "The actor died because its node has died. Node Id: 4f"
    return error


NO_ROOM = RayTaskError("run_trial", "trace", ObjectStoreFullError("no room"))
STALE_MODEL = CandidateError("router backbone: OSError: stale file handle").of_kind(ErrorKind.TRANSIENT)
DIED, STALE, PERMANENT = ActorDiedError(), OSError(errno.ESTALE, "stale"), FileNotFoundError(2, "reward.py")


def breaks(handing: tune._JournalSearch, name: str, error: BaseException) -> None:
    """As Tune tells it: first that there was an error, then which."""
    handing.on_trial_complete(name, error=True)
    handing.broke(name, error)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "ended", lambda self: False)
    monkeypatch.setattr(policy.random, "random", lambda: 0.0)


def test_without_a_pool_what_broke_is_left_open_and_no_other_begins(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "ended", lambda self: True)
    handing = search(journal, 2)
    handing.suggest("a")
    breaks(handing, "a", DIED)
    assert journal.trials()[0].state == "running"
    assert not [e for e in journal.events() if isinstance(e, AttemptBroke)], "the setting is not to blame"
    assert handing.suggest("b") == Searcher.FINISHED
    assert len(journal.trials()) == 1


def begun_again(handing: tune._JournalSearch, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is handed out when its pause is over."""
    assert handing.suggest(name) is None, "not before its pause is over"
    later = time.monotonic() + 3600
    with monkeypatch.context() as patch:
        patch.setattr(tune.time, "monotonic", lambda: later)
        return handing.suggest(name)


@pytest.mark.usefixtures("live")
def test_a_setting_whose_process_dies_is_begun_again_twice_and_has_failed_then(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    handing = search(journal, 1)
    config = handing.suggest("t0")
    for n in range(1, 3):
        Path(config["folder"]).mkdir(parents=True)
        (Path(config["folder"]) / "output.log").write_text(f"line one\n\nattempt {n} said this last\n")
        (Path(config["folder"]) / "experiment.json").write_text("{}")
        breaks(handing, f"t{n - 1}", DIED)
        config = begun_again(handing, f"t{n}", monkeypatch)
        assert config["folder"] == str(attempt_folder(journal.folder, 0, n + 1))
        assert config["former"] == str(attempt_folder(journal.folder, 0, n))
    breaks(handing, "t2", DIED)
    assert handing.suggest("t3") == Searcher.FINISHED
    (trial,) = journal.trials()
    assert (trial.state, trial.deaths, trial.attempts) == ("failed", 3, 3)
    assert trial.error == "The actor died unexpectedly before finishing this task. (3 times without getting further)"
    assert trial.log == ("line one", "attempt 2 said this last")


@pytest.mark.usefixtures("live")
def test_what_a_driver_before_counted_counts_and_progress_makes_it_forgotten(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(journal, a_trial(0, state="running", parameters={RATE: 1e-3}, attempts=2))
    for attempt in (1, 2):
        journal.append(AttemptBroke(0, attempt, 0, "died", "unknown"))
    handing = search(journal, 0)
    folder = Path(handing.suggest("t0")["folder"])
    (folder / "checkpoints" / "step-000005").mkdir(parents=True)
    (folder / "experiment.json").write_text("{}")
    breaks(handing, "t0", DIED)
    assert (journal.trials()[0].state, journal.trials()[0].deaths, journal.trials()[0].reached) == ("running", 1, 5)
    for n in (1, 2):
        begun_again(handing, f"t{n}", monkeypatch)
        breaks(handing, f"t{n}", DIED)
    assert (journal.trials()[0].state, journal.trials()[0].deaths) == ("failed", 3)


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize(
    "error",
    [
        RayTaskError("run_trial", "trace", STALE),
        gone_with_its_node(),
        NO_ROOM,
        RayTaskError("run_trial", "trace", STALE_MODEL).as_instanceof_cause(),  # what `ray.get` raises of it
    ],
    ids=["stale", "node", "room", "our own"],
)
def test_what_machines_broke_is_told_from_what_the_code_did(
    journal: Journal, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun again however often, and left open when it has not passed for too long."""
    handing = search(journal, 1)
    handing.suggest("t0")
    for n in range(7):
        breaks(handing, f"t{n}", error)
        assert journal.trials()[0].deaths == 0
        if n < 6:
            assert begun_again(handing, f"t{n + 1}", monkeypatch)["number"] == 0
    later = time.monotonic() + 3600
    handing = search(journal, 0)
    handing.suggest("u0")
    breaks(handing, "u0", error)
    begun_again(handing, "u1", monkeypatch)
    handing._failures[0]._clock = lambda: later
    breaks(handing, "u1", error)
    assert handing.suggest("u2") == Searcher.FINISHED
    assert journal.trials()[0].state == "running"
    assert handing.reason


@pytest.mark.usefixtures("live")
def test_what_the_user_wrote_is_not_tried_again(journal: Journal) -> None:
    handing = search(journal, 1)
    handing.suggest("t0")
    breaks(handing, "t0", RayTaskError("run_trial", "trace", PERMANENT))
    (trial,) = journal.trials()
    assert (trial.state, trial.error) == ("failed", "FileNotFoundError: [Errno 2] reward.py")


@pytest.mark.ray
@pytest.mark.usefixtures("running_ray")
@pytest.mark.parametrize("kind", ErrorKind)
def test_an_error_of_ours_has_its_own_kind_beyond_ray_too(kind: ErrorKind) -> None:
    """Whatever its class's is: Ray raises a double, of both classes."""

    def fails() -> None:
        raise CandidateError("as it was raised").of_kind(kind)

    with pytest.raises(CandidateError, match="as it was raised") as caught:
        ray.get(ray.remote(num_cpus=0.1)(fails).remote(), timeout=60)
    assert isinstance(caught.value, RayTaskError)
    assert kind_of(caught.value) is kind


@pytest.mark.usefixtures("live")
def test_a_zombie_of_an_attempt_before_says_nothing_of_the_one_that_runs(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    handing = search(journal, 1)
    first = Path(handing.suggest("t0")["folder"])
    breaks(handing, "t0", DIED)
    second = Path(begun_again(handing, "t1", monkeypatch)["folder"])
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "experiment.json").write_text("{}")
    (first / "error.json").write_text('{"kind": "CheckpointError", "message": "two writers"}')
    (second / "result.json").write_text('{"metrics": {"validation_reward": 0.75}}')
    handing.on_trial_complete("t1", reported(20, validation_reward=0.75))
    assert (journal.trials()[0].state, journal.trials()[0].metrics) == ("finished", {"validation_reward": 0.75})
    assert not first.exists(), "what it left is dropped at the trial's end"


def test_a_driver_that_leaves_begins_no_trial_and_keeps_open_what_has_no_result(journal: Journal) -> None:
    handing = search(journal, 4)
    for trial_id in ("a", "b"):
        handing.suggest(trial_id)
    journal.leave("x")
    assert handing.suggest("c") == Searcher.FINISHED
    handing.on_trial_complete("a", reported(7, reward=0.5))
    result = trial_folder(journal.folder, 1) / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text('{"metrics": {"validation_reward": 0.5}}')
    handing.on_trial_complete("b", reported(9, reward=0.5))
    assert [t.state for t in journal.trials()] == ["running", "finished"]


def test_ends_that_no_driver_noted_are_noted_before_going_on(journal: Journal) -> None:
    write(journal, *(a_trial(n, state="running", parameters={RATE: 1e-3}) for n in range(3)))
    for number, name, text in (
        (0, "result.json", '{"metrics": {"validation_reward": 0.5}}'),
        (1, "error.json", '{"kind": "Diverged", "message": "nan"}'),
    ):
        folder = trial_folder(journal.folder, number)
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    settle(journal, journal.study())
    settle(journal, journal.study())
    assert [t.state for t in journal.trials()] == ["finished", "failed", "running"]
    assert sum(isinstance(e, TrialEnded) for e in journal.events()) == 2


# Stopping.

ASHA = Asha(grace_steps=2, reduction=2.0)
STUDY = a_study(
    PLAIN, experiment={"run": {"steps": 20}}, scheduler={"type": "asha", "grace_steps": 2, "reduction": 2.0}
)
STEPS = range(1, 21)


def tune_trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"t{number}", config={"number": number, "steps": STUDY.experiment.total_steps})


def undisturbed_asha() -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr="step", metric=f"{METRICS}validation_reward", mode="max", max_t=20, grace_period=2,
        reduction_factor=2.0, stop_last_trials=False,
    )  # fmt: skip


def reward(number: int, step: int) -> float:
    """Curves that cross, so that decisions differ from rung to rung."""
    return math.sin(1.7 * number + step / (3 + number % 4)) + number * 0.03


def decide(scheduler: Any, trial: Any, step: int) -> str:
    return scheduler.on_trial_result(
        None, trial, reported(step, validation_reward=reward(trial.config["number"], step))
    )


def play(scheduler: Any, numbers: Sequence[int], past: list[TrialRecord] | None = None) -> dict[int, int]:
    """Run trials one after the other until they are stopped; the step of each one's end."""
    ends = {}
    for number in numbers:
        trial = tune_trial(number)
        scheduler.on_trial_add(None, trial)
        done = [r for t in past or () if t.number == number for r in t.reports]
        for step in STEPS[len(done) :]:
            ends[number] = step
            if decide(scheduler, trial, step) == TrialScheduler.STOP:
                break
    return ends


def record(number: int, end: int, state: str) -> TrialRecord:
    reports = tuple((s, {"validation_reward": reward(number, s)}) for s in range(1, end + 1))
    return a_trial(number, state=state, reports=reports)


def test_rungs_built_from_the_journal_decide_as_if_nobody_had_left() -> None:
    expected = play(undisturbed_asha(), range(12))
    assert len({*expected.values()}) > 2, "no decision to compare"
    for kill in (1, 4, 8, 11):
        past = [record(n, expected[n], "finished" if expected[n] == 20 else "stopped") for n in range(kill)]
        assert play(tune._JournalAsha(ASHA, STUDY, past), range(kill, 12)) == {n: expected[n] for n in range(kill, 12)}


def test_a_trial_that_goes_on_after_a_kill_is_judged_as_before() -> None:
    expected = play(undisturbed_asha(), range(12))
    for number in (3, 5, 9):
        past = [record(n, expected[n], "stopped") for n in range(number)]
        middle = record(number, expected[number] // 2, "running")
        resumed = tune._JournalAsha(ASHA, STUDY, [*past, middle])
        assert play(resumed, range(number, 12), [middle]) == {n: expected[n] for n in range(number, 12)}


def test_a_trial_that_tune_starts_again_does_not_count_twice() -> None:
    past = [record(0, 20, "finished"), record(1, 4, "running")]
    scheduler = tune._JournalAsha(ASHA, STUDY, past)
    scheduler.on_trial_add(None, tune_trial(1))
    scheduler.on_trial_add(None, tune_trial(1))
    rungs = dict(scheduler._brackets[0]._rungs)
    assert rungs[4] == {"number-0": reward(0, 4), "number-1": reward(1, 4)}


def test_comparisons_have_no_say_in_the_search() -> None:
    trial = replace(record(0, 20, "finished"), kind="comparison")
    assert all(rung == {} for _, rung in tune._JournalAsha(ASHA, STUDY, [trial])._brackets[0]._rungs)


def test_a_run_at_its_last_step_is_left_to_end_by_itself() -> None:
    study = a_study(PLAIN, experiment={"run": {"steps": 4}})
    best = a_trial(0, 0.9, reports=((2, {"validation_reward": 0.9}), (4, {"validation_reward": 0.9})))
    scheduler = tune._JournalAsha(ASHA, study, [best])
    trial = SimpleNamespace(trial_id="t", config={"number": 1, "steps": 4})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, reported(2, validation_reward=1.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, trial, reported(4, validation_reward=0.1)) == TrialScheduler.CONTINUE
    late = SimpleNamespace(trial_id="u", config={**trial.config, "number": 2})
    scheduler.on_trial_add(None, late)
    assert scheduler.on_trial_result(None, late, reported(2, validation_reward=0.1)) == TrialScheduler.STOP


def test_a_result_without_metrics_decides_nothing() -> None:
    scheduler = tune._JournalAsha(ASHA, STUDY, [])
    scheduler.on_trial_add(None, tune_trial(0))
    assert scheduler.on_trial_result(None, tune_trial(0), {"done": True}) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(("kind", "stops"), [("search", True), ("comparison", False), ("confirm", False)])
def test_only_the_search_is_cut_short(journal: Journal, kind: Any, stops: bool) -> None:
    assert isinstance(tune._scheduler(Search(STUDY), journal, kind), tune._JournalAsha) is stops


@pytest.mark.parametrize(
    ("trial", "router", "bundles"),
    [
        ({"cpus": 1}, {"cpus": 2, "gpus": 1}, [{"CPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]),
        ({"cpus": 0}, {"cpus": 2}, [{"CPU": 2.0}]),
        ({"cpus": 1}, {"cpus": 0}, [{"CPU": 1.0}]),
    ],
)
def test_a_trial_waits_for_its_router_too(trial: Any, router: Any, bundles: list[dict[str, float]]) -> None:
    profile = ClusterProfile.model_validate({"name": "p", "trial": trial, "router": router})
    assert tune._resources(Session("n", profile, broker=None), STUDY).bundles == bundles


@pytest.mark.parametrize(
    ("backbone", "bundle"),
    [
        ({"type": "features"}, {"CPU": 3.0}),
        ({"type": "encoder", "source": {"type": "path", "path": "bert"}}, {"CPU": 3.0, "GPU": 0.25}),
    ],
    ids=["features", "encoder"],
)
def test_a_replay_s_router_gets_the_gpu_it_reads_on(backbone: Any, bundle: dict[str, float]) -> None:
    """Without one Ray would let all trials of a node see its first."""
    profile = ClusterProfile.model_validate({"name": "p", "trial": {"cpus": 1}, "router": {"cpus": 2, "gpus": 0.25}})
    study = STUDY.model_copy(update={"experiment": replay_experiment(Path("t"), routing__backbone=backbone)})
    assert tune._resources(TableSession("n", profile, broker=None), study).bundles == [bundle]


def test_a_journal_whose_disk_is_gone_ends_with_the_way_out(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tuner:
        def __init__(self, *_: object, tune_config: Any, **__: object) -> None:
            self._search = tune_config.search_alg

        def fit(self) -> None:
            self._search.problem = OSError(5, "Input/output error")

    monkeypatch.setattr(tune.tune, "Tuner", Tuner)
    session = Session("haps-s", PROFILE, broker=None)
    with pytest.raises(PoolError, match=r"cannot be written or read .*Input/output error.*start the sweep"):
        tune.fit(journal, journal.study(), session, "search", 1, None)


def test_what_the_journal_cannot_take_ends_the_sweep_and_is_no_trial_s_error(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised in one of Tune's callbacks it would end as that trial's failure, or as Tune's own."""
    handing = search(journal, 3)
    handing.suggest("a")
    full = PoolError("no room")

    def refuse(event: object) -> None:
        raise full

    ends = tune._Ends(handing._session, handing, journal, None)
    assert not ends.stop_all()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", refuse)
        handing.on_trial_result("a", reported(4, validation_reward=0.25))
    assert handing.problem is full
    assert ends.stop_all()
    assert handing.suggest("b") == Searcher.FINISHED
    assert handing.unbegun == 2
    (trial,) = journal.trials()
    assert not trial.ended


def test_a_suggestion_that_could_not_be_journalled_was_not_begun(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    handing = search(journal, 1)

    def refuse(event: object) -> None:
        raise PoolError("no room")

    monkeypatch.setattr(journal, "append", refuse)
    assert handing.suggest("a") == Searcher.FINISHED
    assert (handing.unbegun, journal.trials()) == (1, [])
