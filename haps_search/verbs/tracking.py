"""A sweep in its trackers. In MLflow: its run, the runs of its trials, their data, their best checkpoints as models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from haps_search.config.conditions import canonical
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.errors import HapsError
from haps_search.records.mlflow_models import Data, data_of, keep_data, keep_model
from haps_search.records.mlflow_tracker import MlflowStore, MlflowTracker, Sweep, SystemMetrics, default_uri
from haps_search.records.trackers import opener
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder, trial_name
from haps_search.sweep.mirror import Mirror
from haps_search.sweep.space import apply
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import of_half
from haps_search.types import Split

_log = logging.getLogger(__name__)
LEARNED_FROM: tuple[tuple[Split, str], ...] = (("train", "training"), ("validation", "validation"))


@dataclass(frozen=True)
class SweepInMlflow:
    """MLflow's store and the sweep's parent run there."""

    store: MlflowStore
    sweep: Sweep
    parent: str
    journal: Journal
    data: tuple[Data, ...]
    machine: SystemMetrics | None
    experiment: Experiment
    _read: dict[str, tuple[Data, ...]] = field(default_factory=dict)

    @classmethod
    def open(cls, journal: Journal, study: Study) -> SweepInMlflow:
        """The sweep's run, found or made. Raises TrackerError where the store cannot be used."""
        uri = tracking_uri(study, journal.folder)
        store = MlflowStore(uri, "haps_search")
        sweep = Sweep(journal.folder.name, journal.begun())
        parent = store.sweep_run(sweep, study.experiment.model_dump(mode="json"), {"haps.study": study.name})
        data = data_of_task(study.experiment)
        keep_data(store, parent, data)
        machine = SystemMetrics(uri, parent) if study.tracking.system_metrics else None
        return cls(store, sweep, parent, journal, data, machine, study.experiment)

    def trial_tracker(self, trial: str, parameters: Mapping[str, Any]) -> MlflowTracker:
        """Raises TrackerError where the store cannot be used now."""
        tracker = self.store.trial_tracker(self.sweep, trial, parameters)
        keep_data(self.store, tracker.run_id, self.data_of_trial(parameters))
        return tracker

    def data_of_trial(self, parameters: Mapping[str, Any]) -> tuple[Data, ...]:
        """The data of a trial's own task and half, such as another fold in confirmations, each read once; none where
        the task cannot be built, for which the trial itself fails."""
        own = {name: value for name, value in parameters.items() if name == "run.half" or name.split(".")[0] == "task"}
        if not own:
            return self.data
        try:
            laid = {name: value for name, value in parameters.items() if name.split(".")[0] in Experiment.model_fields}
            experiment = apply(self.experiment, laid)
            task = canonical([experiment.task.model_dump(mode="json"), experiment.run.half])
            if task not in self._read:
                self._read[task] = data_of_task(experiment)
        except HapsError as error:
            _log.warning("the data of a trial with %s are not named in MLflow: %s", canonical(own), error)
            return ()
        return self._read[task]

    def end(self, files: Sequence[Path]) -> bool:
        """Models, files and the sweep's end; False where the store did not take all."""
        sent = [self.store.artifact(self.parent, file) for file in files]
        for trial in self.journal.trials():
            if trial.state in ("finished", "stopped"):
                folder = trial_folder(self.journal.folder, trial.number)
                data = self.data_of_trial(trial.parameters)
                sent.append(keep_model(self.store, self.sweep, trial_name(trial.number), folder, data))
        return self.store.end_sweep(self.parent, "finished") and all(sent)


@dataclass(frozen=True)
class Tracking:
    """The trackers of a sweep: MLflow's store with the sweep's parent run there, or neither, and those beside it."""

    mlflow: SweepInMlflow | None
    mirrors: tuple[Mirror, ...]

    @classmethod
    def open(cls, journal: Journal, study: Study) -> Tracking:
        """Raises TrackerError where MLflow is wanted and cannot be reached."""
        mirrors = [Mirror(journal, partial(opener(name), journal.folder)) for name in study.tracking.also]
        if not study.tracking.mlflow:
            return cls(None, tuple(mirrors))
        opened = SweepInMlflow.open(journal, study)
        return cls(opened, (Mirror(journal, opened.trial_tracker), *mirrors))

    @property
    def uri(self) -> str | None:
        """MLflow's store."""
        return self.mlflow.store.uri if self.mlflow else None

    def tick(self) -> None:
        for mirror in self.mirrors:
            mirror.tick()

    def end(self, files: Sequence[Path]) -> bool:
        """Send the rest; False where a tracker did not take all of it, which another resume sends."""
        sent = [mirror.tick(last=True) for mirror in self.mirrors]
        return all(sent) and (self.mlflow is None or self.mlflow.end(files))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Whatever happened: no thread of a tracker stays."""
        if self.mlflow is not None and self.mlflow.machine is not None:
            self.mlflow.machine.stop()


def tracking_uri(study: Study, folder: Path) -> str:
    """MLflow's store of a sweep or run in `folder`."""
    return study.tracking.uri or default_uri(folder.parent)


def data_of_task(experiment: Experiment) -> tuple[Data, ...]:
    """What an experiment's runs learn from and are validated on. Errors are the task's."""
    config = experiment.task
    task, source = build_task(config), config.model_dump(mode="json")
    asked = {"train": of_half(task.questions("train"), experiment.run.half), "validation": task.questions("validation")}
    return tuple(
        data_of(context, config.type, source, ((q.id, q.text, q.reference) for q in asked[split]))
        for split, context in LEARNED_FROM
    )
