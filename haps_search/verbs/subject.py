"""What is judged: a sweep by the checkpoints of its best settings, or a single run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.local import load_run
from haps_search.errors import ConfigError
from haps_search.evaluation.replay.asked import JudgedOn
from haps_search.evaluation.replay.policies import Member, Policy, Yardstick, best_count, ensembles, mean_policy
from haps_search.evaluation.routing_metrics.routes import Floats
from haps_search.learning.utility import with_cost_weight
from haps_search.search.engine import finished
from haps_search.search.outcome_step import chances
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.inputs import all_at_hand
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.ranking import best_first
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import choosing
from haps_search.tasks.replay import ReplayTask
from haps_search.types import Question
from haps_search.verbs.find import FoundRun, find_run

MOST_TRIALS = 20
"""So many of the search's best settings are looked at."""


@dataclass(frozen=True)
class Setting:
    """One setting: the run of the search, and those that confirm it on other folds or seeds."""

    label: str
    searched: FoundRun
    confirmed: tuple[FoundRun, ...] = ()

    @property
    def runs(self) -> tuple[FoundRun, ...]:
        """The searched run was the best of many; it counts where confirming runs leave its fold out."""
        return *self.confirmed, self.searched


@dataclass(frozen=True)
class Subject:
    """Settings, the best first; where files go, and where readings of the test split are kept (a sweep's trials share
    its test questions, so the sweep's folder)."""

    name: str
    folder: Path
    readings: Path
    experiment: Experiment
    settings: tuple[Setting, ...]

    @property
    def folds(self) -> int:
        """Into how many the questions fall that are not test."""
        assert self.experiment.task.type == "replay"
        return self.experiment.task.folds


def find_subject(runs: Path, text: str) -> Subject:
    """A sweep by NAME, or a run by NAME/NUMBER or folder.

    Raises ConfigError where there is none, or where it has no result.
    """
    folder = runs.resolve() / text
    if Journal(folder).started() is not None:
        return _of_sweep(Journal(folder))
    found = find_run(runs, text)
    sweep = found.folder.parent.parent
    readings = sweep if Journal(sweep).started() is not None else found.folder
    return Subject(text, found.folder, readings, found.experiment, (Setting("run", found),))


def _of_sweep(journal: Journal) -> Subject:
    study, trials = all_at_hand(journal.study(), journal.folder), journal.trials()
    best = best_first(study, trials)[:MOST_TRIALS]
    if not best:
        name = journal.folder.name
        raise ConfigError(f"sweep {name} has no trial with results yet; `haps status {name}` shows how far it is")
    settings = tuple(_setting(journal, study, trial, trials) for trial in best)
    return Subject(journal.folder.name, journal.folder, journal.folder, study.experiment, settings)


def _setting(journal: Journal, study: Study, trial: TrialRecord, trials: Sequence[TrialRecord]) -> Setting:
    def run(one: TrialRecord) -> FoundRun:
        return FoundRun(trial_folder(journal.folder, one.number), experiment_of(study, one))

    label = f"trial {trial.number}"
    again = [t for t in trials if t.kind == "confirm" and t.label == label and t.state in ("finished", "stopped")]
    return Setting(label, run(trial), tuple(run(t) for t in again))


WEIGHTS = 16
"""Points of the curve of a router that reads the weight of cost, evenly spaced in its logarithm."""
MOST_AVERAGED = 5
"""At most so many settings are averaged: more of them look alike, and each has to be confirmed."""
ROUTER, SINGLE = "router", "best setting, one checkpoint"


@dataclass(frozen=True)
class Chosen:
    """The settings that are averaged, the best first, and what their mean earns on the questions that chose them (None
    where there was nothing to choose)."""

    settings: tuple[Setting, ...]
    validation: float | None
    folds: int
    """On so many folds they were compared."""


def chosen_settings(subject: Subject) -> Chosen:
    """Which settings are averaged, by what `run.validation.best` names. Test questions have no say in it.

    Settings whose confirming runs went through every fold are compared on all of them, each fold read by the
    checkpoints that left it out. Without any, those that the search found best are compared on its own fold.
    """
    if len(subject.settings) == 1:
        return Chosen(subject.settings, None, 1)
    proven = [setting for setting in subject.settings if _folds(setting.confirmed) == set(range(subject.folds))]
    models = _models(subject)
    if proven:
        tasks = [_on_fold(subject, fold) for fold in range(subject.folds)]
        found = {setting.label: _left_out(subject, setting) for setting in proven}
    else:
        tasks = [_task(subject.settings[0].searched)]
        proven = list(subject.settings[:MOST_AVERAGED])
        asked = choosing(tasks[0], subject.experiment)
        found = {s.label: policy(s.searched, "validation", asked, models) for s in proven}
    outcomes = [task.outcomes(choosing(task, subject.experiment), models) for task in tasks]
    experiment = subject.experiment
    measure = Yardstick.of(outcomes, experiment.run.validation.best, experiment.learning.cost_weight)
    if len(tasks) > 1:
        proven.sort(key=lambda setting: -measure(found[setting.label]))
    searched = [found[setting.label] for setting in proven[:MOST_AVERAGED]]
    count = best_count(searched, measure)
    earns = Yardstick(measure.rewards)(mean_policy(searched[:count]))
    return Chosen(tuple(proven[:count]), earns, len(tasks))


def routers(
    subject: Subject, split: JudgedOn, questions: Sequence[Question], chosen: Sequence[Setting]
) -> dict[str, tuple[Policy, ...]]:
    """Label to one policy per seed, the judged one first: every router of the subject on the questions of a split.

    On validation only runs of the search's own fold may be asked: the others were trained on it.
    """
    members = {setting.label: _members(subject, setting, split, questions) for setting in chosen}
    first = next(iter(members.values()))
    found = {ROUTER: ensembles(member for part in members.values() for member in part)}
    if len(chosen) > 1 or len(first) > 1:
        found[SINGLE] = tuple(member.policy for member in first)
    if len(chosen) > 1 and len(first) > 1:
        found["best setting, ensemble"] = ensembles(first)
    return found


def policy(run: FoundRun, split: JudgedOn, questions: Sequence[Question], models: Sequence[str]) -> Policy:
    """What a run's best checkpoint would do on questions of a split or of another table, read in its own way.

    Columns are `models`; one that is no candidate of the run has probability 0. Raises CheckpointError, ConfigError.
    """
    loaded = load_run(run.folder, run.experiment)
    assert isinstance(loaded.task, ReplayTask)
    if split == "other":
        asked = [loaded.task.worded(question) for question in questions]
    else:
        own = {question.id: question for question in loaded.task.questions(split)}
        asked = [own[question.id] for question in questions]
    columns = [models.index(candidate.name) for candidate in run.experiment.candidates]

    def probabilities(texts: Sequence[Question]) -> Floats:
        found = np.zeros((len(texts), len(models)))
        found[:, columns] = finished(chances(loaded.engine, texts))
        return found

    limits = run.experiment.learning.cost_conditioned
    weights = [] if limits is None else np.geomspace(limits.low, limits.high, WEIGHTS).tolist()
    priced = {weight: probabilities([with_cost_weight(question, weight) for question in asked]) for weight in weights}
    return Policy(probabilities(asked), priced)


def _members(subject: Subject, setting: Setting, split: JudgedOn, questions: Sequence[Question]) -> list[Member]:
    own = _fold(setting.searched)
    runs = [run for run in setting.runs if split != "validation" or _fold(run) == own]
    return [Member(setting.label, _fold(run), policy(run, split, questions, _models(subject))) for run in runs]


def _left_out(subject: Subject, setting: Setting) -> Policy:
    """The setting on the questions of all folds, one fold after another, each read by the runs that it validated."""
    parts = []
    for fold in range(subject.folds):
        runs = [run for run in setting.confirmed if _fold(run) == fold]
        own = choosing(_task(runs[0]), subject.experiment)
        parts.append(mean_policy([policy(run, "validation", own, _models(subject)) for run in runs]))
    common = set.intersection(*(set(part.priced) for part in parts))
    return Policy(
        np.concatenate([part.probabilities for part in parts]),
        {weight: np.concatenate([part.priced[weight] for part in parts]) for weight in sorted(common)},
    )


def _on_fold(subject: Subject, fold: int) -> ReplayTask:
    """The task with another fold to validate on."""
    return ReplayTask(_task(subject.settings[0].searched).config.model_copy(update={"fold": fold}))


def _folds(runs: Sequence[FoundRun]) -> set[int]:
    return {_fold(run) for run in runs}


def _task(run: FoundRun) -> ReplayTask:
    task = build_task(run.experiment.task)
    assert isinstance(task, ReplayTask)
    return task


def _fold(run: FoundRun) -> int:
    task = run.experiment.task
    assert task.type == "replay"
    return task.fold


def _models(subject: Subject) -> list[str]:
    return [candidate.name for candidate in subject.experiment.candidates]
