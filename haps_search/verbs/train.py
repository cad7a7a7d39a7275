"""One run outside a sweep, on either engine."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.engines import LocalEngineConfig
from haps_search.config.load import load_profile
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.placement.precision import here, settled
from haps_search.errors import Interrupted
from haps_search.records.jsonl import read_records
from haps_search.records.remote import pushed
from haps_search.records.room import room_on
from haps_search.records.run_folder import RunFolder
from haps_search.records.sealed import replace_text
from haps_search.search.engine import Engine, finished
from haps_search.search.loop import run
from haps_search.search.stages import RunResult
from haps_search.search.warm_start import warm_source
from haps_search.sweep.hold import Hold
from haps_search.sweep.leaving import grace_of, ready_to_leave, unfinished
from haps_search.sweep.settings import with_dtypes_of, with_questions_of
from haps_search.tasks.build import build_task
from haps_search.tasks.own import with_task
from haps_search.tasks.task import Task
from haps_search.verbs.events import Counted, Report, Said, saying, silent
from haps_search.verbs.find import named_folder
from haps_search.verbs.frames import frame, page
from haps_search.verbs.logs import logging_to

if TYPE_CHECKING:
    from pandas import DataFrame

Opener = Callable[[Experiment, Task], Awaitable[Engine]]


@dataclass(frozen=True)
class TrainResult:
    """A run that has ended: why, after how many steps, and the metrics of its best validation."""

    name: str
    folder: Path
    reason: str
    step: int
    best_step: int
    metrics: Mapping[str, float]

    @property
    def history(self) -> DataFrame:
        """A row per step: all its metrics."""
        return frame([{"step": r.step, **r.metrics} for r in read_records(self.folder / "metrics.jsonl")], "step")

    def _repr_html_(self) -> str:
        return page(f"run {self.name}, ended by {self.reason}", {"the last steps": self.history.tail(5)})


def train(
    study: Study,
    name: str | None = None,
    runs: str | Path = "runs",
    report: Report = silent,
    task: Task | None = None,
) -> TrainResult:
    """Train one router at the study's own values, no search. A run of that name goes on from its last checkpoint.
    A `task` of your own takes the place of the study's.

    Raises:
        ConfigError, DataError, CandidateError, CheckpointError: it cannot run, or the name is another run's.
        Diverged, PoolError: it broke; the last checkpoint stays. Unfinished: it was asked to leave, and is saved.
    """
    study = with_task(study, task)
    folder = named_folder(runs, name or f"{study.name}-train")
    if (folder / "experiment.json").exists():  # it keeps validation questions and dtypes that it was begun with
        begun = RunFolder.experiment_of(folder)
        study = with_dtypes_of(with_questions_of(study, begun), begun)
    else:
        study = _settled(study, report)
    with Hold(folder) as hold:
        try:
            local = isinstance(study.experiment.engine, LocalEngineConfig)
            result = _local(study, folder, hold, report) if local else _on_ray(study, folder, hold, report)
        except Interrupted as error:
            raise unfinished(hold.why, f"{error}: the same `haps train` goes on") from error
    return TrainResult(folder.name, folder, result.reason, result.steps, result.best_step, result.metrics)


def _settled(study: Study, report: Report) -> Study:
    engine = study.experiment.engine
    profile = here() if isinstance(engine, LocalEngineConfig) else load_profile(engine.profile)
    found = settled(study.experiment, 1, profile)
    for line in found.said:
        report(Said(line))
    return study.model_copy(update={"experiment": found.experiment})


def _local(study: Study, folder: Path, hold: Hold, report: Report) -> RunResult:
    from haps_search.engines.local import LocalEngine

    async def opened(experiment: Experiment, task: Task) -> Engine:
        return LocalEngine.build(experiment, task)

    with ready_to_leave(hold, folder):
        return finished(_train(study, folder, hold, opened, report))


def _on_ray(study: Study, folder: Path, hold: Hold, report: Report) -> RunResult:
    from haps_search.engines.cluster.session import session
    from haps_search.verbs.driver import profile_of

    profile = profile_of(study)
    logs = folder / "logs"
    with (
        logging_to(logs / "driver.log"),
        ready_to_leave(hold, folder, grace_of(profile.grace_s)) as arm,
        session(folder.name, study.experiment.candidates, profile, logs) as live,
    ):
        arm()
        live.wait_for_candidates(saying(report), lambda: hold.leaving)
        if hold.leaving:
            raise Interrupted("nothing was begun")

        async def opened(experiment: Experiment, task: Task) -> Engine:
            return await live.engine(experiment)

        return finished(_train(study, folder, hold, opened, report))


async def _train(study: Study, folder: Path, hold: Hold, opened: Opener, report: Report) -> RunResult:
    experiment = study.experiment
    task = build_task(experiment.task)
    warm_source(experiment, folder)
    report(Said(f"run {folder}"))
    mirror = _Mirror(study, folder) if study.tracking.mlflow else None
    engine = await opened(experiment, task)

    def step_done(step: int, metrics: Mapping[str, float]) -> None:
        report(Said(_line(step, metrics, experiment)))
        if mirror is not None:
            mirror.send()

    def counted(label: str, done: int, total: int) -> None:
        report(Counted(label, done, total))

    try:
        place = RunFolder(folder, experiment)
        result = await run(engine, task, experiment, place, step_done, lambda: hold.leaving, counted)
    finally:
        await engine.close()
    if mirror is not None:
        mirror.send()
        mirror.tracker.finish("finished", result.metrics)
    return result


def _line(step: int, metrics: Mapping[str, float], experiment: Experiment) -> str:
    alarms = " ".join(
        f"! {name.replace('_', ' ')}" for name in ("route_collapse", "answer_collapse") if metrics.get(name)
    )
    adapter = f"adapter norm {metrics['adapter_norm']:.3f}  " if "adapter_norm" in metrics else ""
    stage = f"stage {metrics['stage']:.0f}  " if "stage" in metrics else ""
    if "reference_match" in metrics:
        learnt = f"log p {metrics['reference_log_likelihood']:.2f}  match {metrics['reference_match']:.3f}"
    else:
        learnt = f"reward {metrics['reward']:.3f}"
    return (
        f"step {step}/{experiment.total_steps}  {stage}{learnt}  "
        f"validation {metrics['validation_reward']:.3f}  entropy {metrics['route_entropy']:.3f}  "
        f"{adapter}{metrics['step_seconds']:.2f} s/step  {alarms}"
    ).rstrip()


class _Mirror:
    """Sends what the run has recorded to MLflow, as the only child of a parent of the run's name."""

    def __init__(self, study: Study, folder: Path) -> None:
        from haps_search.records.mlflow_tracker import MlflowStore, Sweep, default_uri

        store = MlflowStore(study.tracking.uri or default_uri(folder.parent), "haps_search")
        own = Sweep(folder.name, _begun(folder))
        self.tracker = store.trial_tracker(own, "train", study.experiment.model_dump(mode="json"))
        self._file, self._sent = folder / "metrics.jsonl", self.tracker.last_step

    def send(self) -> None:
        records = [record for record in read_records(self._file) if record.step > self._sent]
        self.tracker.log_many(records)
        self._sent = records[-1].step if records else self._sent


def _begun(folder: Path) -> float:
    """When the run was first started, which tells it in MLflow from others of its name."""
    file = folder / "begun.json"
    if not file.exists():
        with room_on(folder):
            replace_text(file, json.dumps({"begun": time.time()}))
        pushed(file)
    return float(json.loads(file.read_text())["begun"])
