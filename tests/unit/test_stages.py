"""Stages of a run: what they change is checked before anything starts, and everything that reads runs knows them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from sweeps import a_study

from haps_search.config.anchors import anchored
from haps_search.config.load import dump, load_study, make_study
from haps_search.engines.cluster.trial import METRICS
from haps_search.engines.placement.needs import Need, most
from haps_search.errors import ConfigError
from haps_search.records.checkpoint import CheckpointStore
from haps_search.records.run_folder import RunFolder, identity
from haps_search.search.stages import stages_of
from haps_search.sweep.journal import open_sweep
from haps_search.sweep.opponents import Search
from haps_search.sweep.settings import Setting, experiment_of
from haps_search.sweep.space import apply
from haps_search.sweep.tune import _JournalAsha, _JournalSearch
from haps_search.types import Snapshot
from haps_search.verbs.explain import explain
from haps_search.verbs.validate import validate

STAGES: list[dict[str, Any]] = [
    {"learning.signal": "references", "run.steps": 100, "run.questions_per_step": 16},
    {"run.steps": 60, "learning.kl_weight": 0.1, "learning.kl_to": "start"},
]


def study(stages: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    experiment = {
        "task": {"type": "skills"},
        "candidates": [{"name": "adder", "source": {"type": "zoo", "name": "adder"}}],
        "routing": {"low_level": {"type": "static"}},
        "stages": stages,
    }
    return {"name": "staged", "experiment": experiment, **changes}


def test_each_stage_is_the_experiment_with_its_changes() -> None:
    experiment = make_study(study(STAGES)).experiment
    first, second = stages_of(experiment)
    assert (first.first, first.last, second.first, second.last) == (0, 100, 100, 160)
    assert experiment.total_steps == 160
    assert (first.experiment.learning.signal, second.experiment.learning.signal) == ("references", "rollouts")
    assert (first.experiment.run.questions_per_step, second.experiment.run.questions_per_step) == (16, 32)
    assert not first.experiment.stages
    assert first.experiment.run.warm_start is None
    assert (second.experiment.run.warm_start, second.experiment.run.warm_start_low) == ("stage 1", True)
    assert type(experiment).model_validate(experiment.model_dump(mode="json")) == experiment
    assert type(experiment).model_validate(second.experiment.model_dump(mode="json")) == second.experiment


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([{"learning.signl": "references"}], "stages.0: no such path; did you mean learning.signal?"),
        ([{}, {"run.steps": 0}], "stages.1.run.steps: got 0, needs more than 0"),
        ([{"learning.kl_to": "start"}], "stages.0.learning.kl_to: start needs run.warm_start_low, or a stage after"),
        ([{"learning.signal": "outcomes"}], "stages.0.learning.signal: outcomes needs task type replay"),
        ([{}, {"routing.lora.rank": 4}], "stages.1.routing.lora.rank: stages differ in learning and run alone"),
        ([{"run.seed": 3}], "stages.0.run.seed: is the same in all stages; set it in experiment"),
        ([{"run.warmup.epochs": 3}], "stages.0.run.warmup.epochs: is the same in all stages"),
        (
            [{"run.validation": {"every": 5}}],
            "run.validation.questions is the same in all stages; write the keys",
        ),
        ([{"stages": []}], "stages.0.stages: stages differ in"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_a_stage_cannot_be_is_said_before_anything_starts(changes: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_study(study(changes))
    assert said in str(error.value)


def test_a_problem_of_a_stage_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "staged.yaml"
    file.write_text(
        "name: staged\nexperiment:\n  task: {type: skills}\n"
        "  candidates: [{name: adder, source: {type: zoo, name: adder}}]\n"
        "  stages:\n  - {run.steps: 5}\n  - run.steps: 0\n"
    )
    with pytest.raises(ConfigError, match=r"experiment\.stages\.1\.run\.steps \(line 7\): got 0"):
        load_study(file)


def test_a_space_reaches_into_stages() -> None:
    path = "stages.0.learning.learning_rate.low"
    space = {path: {"type": "log", "low": 1e-4, "high": 1e-2}}
    searched = make_study(study([{**STAGES[0], "learning.learning_rate.low": 1e-3}, STAGES[1]], space=space))
    drawn = experiment_of(searched, Setting({path: 0.005, "stages.1.run.steps": 7}, seed=3))
    assert [(e.learning.learning_rate.low, e.run.steps, e.run.seed) for e in drawn.played()] == [
        (0.005, 100, 3),
        (1e-3, 7, 3),
    ]
    with pytest.raises(ConfigError, match=r"stages\.0\.learning\.learning_rate\.low: got -1"):
        apply(searched.experiment, {path: -1.0})
    with pytest.raises(ConfigError, match=r"stages\.0\.learning\.kl_weight\..*got -1"):
        make_study(study(STAGES, space={"stages.0.learning.kl_weight": {"type": "choice", "values": [0.1, -1.0]}}))


def test_verbs_know_of_stages() -> None:
    said = str(validate(make_study(study(STAGES))))
    assert "stage 1     100 steps x 16 questions x 4 episodes, references" in said
    assert "stage 2     60 steps x 32 questions x 4 episodes, rollouts" in said
    (entry,) = explain("stages")
    assert "played one after the other" in entry.text
    (inside,) = explain("stages.0.learning.references.temperature")
    assert inside.path == "experiment.learning.references.temperature"


def test_files_of_a_stage_become_absolute_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_study(study(STAGES))
    assert dump(anchored(made))["experiment"]["stages"] == STAGES


def test_more_steps_are_another_run(tiny_lms: dict[str, Path]) -> None:
    """A run without stages and with a constant rate may be given more; which stage would get them, nobody can tell."""
    constant = {"learning__schedule": {"type": "constant"}}
    plain, longer = (identity(tiny_experiment(tiny_lms, run__steps=n, **constant)) for n in (3, 4))
    assert plain == longer
    one, other = (identity(tiny_experiment(tiny_lms, run__steps=n, stages=[{}], **constant)) for n in (3, 4))
    assert one != other


def test_a_run_knows_the_end_of_its_last_stage(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    experiment = tiny_experiment(tiny_lms, stages=[{"run.steps": 2}, {"run.steps": 5}])
    for steps in (2, 7):
        folder = RunFolder(tmp_path / str(steps), experiment)
        folder.finish({"reason": "steps", "steps": steps, "best_step": steps, "metrics": {}})
        assert (folder.result() is not None) == (steps == 7)


def test_what_is_fitted_is_linked_within_a_stage_alone(tmp_path: Path) -> None:
    """Two stages have beginnings of their own under the same names."""
    store = CheckpointStore(tmp_path, {}, keep=9)
    for step, value, began in ((1, 1.0, 0), (2, 1.0, 0), (3, 2.0, 2), (4, 2.0, 2)):
        store.save(step, Snapshot({}, {}, {"start.a": torch.full((1,), value)}), {}, fitted_after=began)
    assert [float(store.load(step).snapshot.fitted["start.a"]) for step in (1, 2, 3, 4)] == [1.0, 1.0, 2.0, 2.0]
    inodes = [(tmp_path / f"step-{step:06d}" / "fitted.safetensors").stat().st_ino for step in (1, 2, 3, 4)]
    assert inodes[0] == inodes[1]
    assert inodes[2] == inodes[3]
    assert inodes[1] != inodes[2]


def test_a_worker_needs_what_its_hungriest_stage_needs() -> None:
    one, other = Need(5, 1, 2, 8, 100, True, kept=3), Need(5, 1, 4, 2, 100, True, stored=7)
    assert most([one, other]) == Need(5, 1, 4, 8, 100, True, kept=3, stored=7)


@pytest.mark.parametrize(
    ("run_steps", "stages", "decisions"),
    [
        (20, (), {10: "CONTINUE", 20: "CONTINUE"}),
        (20, (20, 60), {10: "CONTINUE", 20: "STOP", 40: "STOP", 80: "CONTINUE"}),
        (200, (20, 20), {10: "CONTINUE", 20: "STOP", 40: "CONTINUE"}),
    ],
)
def test_a_poor_run_is_stopped_before_the_end_of_its_last_stage_and_not_there(
    run_steps: int, stages: tuple[int, ...], decisions: dict[int, str], tmp_path: Path
) -> None:
    asha = {"type": "asha", "grace_steps": 20, "reduction": 2.0}
    experiment = {"run": {"steps": run_steps}, "stages": [{"run.steps": steps} for steps in stages]}
    rate = {"learning.learning_rate.high": {"type": "log", "low": 1e-4, "high": 1e-2}}
    swept = a_study(rate, experiment=experiment, scheduler=asha)
    journal, profile = open_sweep(tmp_path / "s", swept, resume=False), SimpleNamespace(model_dump=lambda mode: {})
    live: Any = SimpleNamespace(gone=None, namespace="s", profile=profile)
    handing = _JournalSearch(journal, swept, live, [], 2, Search(swept))
    good, poor = (SimpleNamespace(trial_id=name, config=handing.suggest(name)) for name in ("good", "poor"))
    nobody: Any = None
    for step, decision in decisions.items():
        scheduler = _JournalAsha(swept.sweep.scheduler, swept, [])  # type: ignore[arg-type]
        for trial, reward in ((good, 0.9), (poor, 0.1)):
            scheduler.on_trial_add(nobody, trial)
            found = scheduler.on_trial_result(nobody, trial, {"step": step, f"{METRICS}validation_reward": reward})
        assert found == decision, step
