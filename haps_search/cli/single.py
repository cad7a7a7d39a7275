"""One run outside a sweep, on either engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from rich.console import Console

from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.records.jsonl import read_records
from haps_search.records.remote import pushed
from haps_search.records.room import room_on
from haps_search.records.run_folder import RunFolder
from haps_search.records.sealed import replace_text
from haps_search.search.engine import Engine
from haps_search.search.loop import RunResult, run
from haps_search.search.warm_start import warm_source
from haps_search.tasks.build import build_task
from haps_search.tasks.task import Task

Opener = Callable[[Experiment, Task], Awaitable[Engine]]


def train_local(study: Study, folder: Path) -> None:
    """In this process."""
    from haps_search.engines.local import LocalEngine

    async def opened(experiment: Experiment, task: Task) -> Engine:
        return LocalEngine.build(experiment, task)

    asyncio.run(_train(study, folder, opened))


def train_on_ray(study: Study, folder: Path) -> None:
    """On a pool of its own."""
    from haps_search.cli.drive import profile_of
    from haps_search.cli.logs import log_to
    from haps_search.engines.cluster.session import session

    profile = profile_of(study)
    log_to(folder / "logs" / "driver.log")
    with session(folder.name, study.experiment.candidates, profile, folder / "logs") as live:
        live.wait_for_candidates(print)

        async def opened(experiment: Experiment, task: Task) -> Engine:
            return await live.engine(experiment)

        asyncio.run(_train(study, folder, opened))


async def _train(study: Study, folder: Path, opened: Opener) -> RunResult:
    console, experiment = Console(), study.experiment
    task = build_task(experiment.task)
    warm_source(experiment, folder)
    console.print(f"run {folder}", highlight=False, soft_wrap=True)
    mirror = _Mirror(study, folder) if study.tracking.mlflow else None
    engine = await opened(experiment, task)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        console.print(_line(step, metrics, experiment), highlight=False, soft_wrap=True)
        if mirror is not None:
            mirror.send()

    try:
        result = await run(engine, task, experiment, RunFolder(folder, experiment), report)
    finally:
        await engine.close()
    best = result.metrics.get("validation_reward", float("nan"))
    console.print(f"ended by {result.reason}; best validation {best:.3f} at step {result.best_step}", highlight=False)
    if mirror is not None:
        mirror.send()
        mirror.tracker.finish("finished", result.metrics)
    return result


def _line(step: int, metrics: Mapping[str, float], experiment: Experiment) -> str:
    alarms = " ".join(
        f"! {name.replace('_', ' ')}" for name in ("route_collapse", "answer_collapse") if metrics.get(name)
    )
    adapter = f"adapter norm {metrics['adapter_norm']:.3f}  " if "adapter_norm" in metrics else ""
    return (
        f"step {step}/{experiment.run.steps}  reward {metrics['reward']:.3f}  "
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
