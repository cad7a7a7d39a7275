"""The journal as an Optuna journal storage, which Optuna's dashboard and its plots open; kept up to date while a sweep
runs.

What the storage has is read from the storage itself and each entry is one line, so it may be killed at any moment: the
next call adds what is missing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.sweep.journal import Journal
from haps_search.sweep.telling import directions, quiet, told

FILE = Path("optuna") / "journal.log"


class OptunaMirror:
    """The one writer of a sweep's Optuna storage."""

    def __init__(self, journal: Journal) -> None:
        """Raises ConfigError where another process writes it."""
        self._journal = journal
        self.file = journal.folder / FILE
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._held = _hold(self.file)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = JournalStorage(JournalFileBackend(str(self.file)))

    def tick(self) -> None:
        """Write what the journal has and the storage lacks.

        A trial that goes on although it had ended (`haps extend`) makes the study anew: Optuna opens none again.
        """
        study = self._journal.study()
        wanted = told(study, self._journal.trials(), self._journal.known())
        study_id = self._study(study)
        there = self.storage.get_all_trials(study_id)
        if len(there) > len(wanted) or any(map(_contradicts, there, wanted)):
            self.storage.delete_study(study_id)
            study_id, there = self._study(study), []
        for kept, trial in zip(there, wanted, strict=False):
            if kept.state == TrialState.RUNNING:
                self._advance(kept, trial)
        for trial in wanted[len(there) :]:
            self.storage.create_new_trial(study_id, template_trial=trial)

    @property
    def study_id(self) -> int:
        """The storage's number of the sweep's study."""
        return self._study(self._journal.study())

    def close(self) -> None:
        self._held.close()

    def _study(self, study: Study) -> int:
        name = self._journal.folder.name
        known = {each.study_name: each._study_id for each in self.storage.get_all_studies()}
        if name not in known:
            known[name] = self.storage.create_new_study(directions(study), name)
            metrics: list[str] = [o.metric for o in study.sweep.objectives]
            with quiet():
                optuna.load_study(study_name=name, storage=self.storage).set_metric_names(metrics)
        return int(known[name])

    def _advance(self, kept: FrozenTrial, trial: FrozenTrial) -> None:
        for step, value in trial.intermediate_values.items():
            if kept.intermediate_values.get(step) != value:
                self.storage.set_trial_intermediate_value(kept._trial_id, step, value)
        if trial.state == TrialState.RUNNING:
            return
        for name, value in trial.system_attrs.items():  # its constraints
            self.storage.set_trial_system_attr(kept._trial_id, name, value)
        self.storage.set_trial_state_values(kept._trial_id, trial.state, trial.values)


def _contradicts(kept: FrozenTrial, trial: FrozenTrial) -> bool:
    """Whether the storage says of a trial what is no longer so."""
    if kept.params != trial.params or kept.user_attrs != trial.user_attrs:
        return True
    return kept.state != TrialState.RUNNING and (kept.state, kept.values) != (trial.state, trial.values)


def _hold(file: Path) -> BinaryIO:
    """The storage's own lock file, held by this process; what a killed writer left is cleared away."""
    held = file.with_suffix(".held").open("ab")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise ConfigError(f"{file} is being written: another `haps dashboard` of this sweep is open") from None
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)  # Optuna's, which would be waited for
    if file.exists():
        whole = file.read_bytes().rfind(b"\n") + 1
        os.truncate(file, whole)
    return held
