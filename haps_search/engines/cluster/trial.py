"""One trial, as Ray Tune runs it: a run on the shared pool with a router actor of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

from haps_search.config.engines import ClusterProfile
from haps_search.config.run import Experiment
from haps_search.engines.cluster.engine import RayEngine
from haps_search.engines.cluster.session import BROKER
from haps_search.errors import HapsError, PoolError
from haps_search.records.run_folder import RunFolder
from haps_search.records.sealed import replace_text
from haps_search.search.loop import RunResult, run
from haps_search.tasks.build import build_task

ERROR_FILE = "error.json"
METRICS = "metrics/"
"""Before the names of our metrics, as Tune flattens them, to tell them from its own."""


def run_trial(config: Mapping[str, Any]) -> None:
    """Tune's trainable. Goes on from the run's own last checkpoint, whatever Tune remembers.

    What the setting or the user's data broke is written down and ends the trial; what the machines broke
    is raised, so that Tune starts the trial again.
    """
    import torch

    profile = ClusterProfile.model_validate(config["profile"])
    torch.set_num_threads(profile.trial.threads)
    experiment = Experiment.model_validate(config["experiment"])
    folder = RunFolder(Path(config["folder"]), experiment)
    try:
        broker = _broker(config["namespace"])
        asyncio.run(_run(experiment, profile, broker, folder))
    except PoolError:
        raise
    except HapsError as error:
        note = {"kind": type(error).__name__, "message": str(error)}
        replace_text(folder.path / ERROR_FILE, json.dumps(note))


def _broker(namespace: str) -> Any:
    try:
        return ray.get_actor(BROKER, namespace=namespace)
    except ValueError as error:
        raise PoolError(f"the broker of {namespace} is gone") from error


async def _run(experiment: Experiment, profile: ClusterProfile, broker: Any, folder: RunFolder) -> RunResult:
    task = build_task(experiment.task)
    engine = await RayEngine.start(experiment, profile, broker)
    try:
        return await run(engine, task, experiment, folder, _report)
    finally:
        await engine.close()


def _report(step: int, metrics: Mapping[str, float]) -> None:
    tune.report({"step": step, METRICS.rstrip("/"): dict(metrics)})
