"""What is judged: a sweep by the checkpoints of its best settings, or a single run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haps_search.cli.find import FoundRun, find_run
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.inputs import all_at_hand
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.ranking import ranked
from haps_search.sweep.settings import experiment_of

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
        """How many of them take turns validating."""
        assert self.experiment.task.type == "replay"
        return self.experiment.task.rotation


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
    best = ranked(trials, study.sweep.objectives)[:MOST_TRIALS]
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
