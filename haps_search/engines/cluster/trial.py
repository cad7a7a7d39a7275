"""One trial, as Ray Tune runs it: a run on the shared pool with a router actor of its own."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from haps_search.config.anchors import renamed_in
from haps_search.config.engines import ClusterProfile
from haps_search.config.routing import AnyBackbone
from haps_search.config.run import Experiment
from haps_search.config.tables import TableConfig
from haps_search.engines.cluster.protocol import BROKER
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.errors import HapsError, Interrupted, Kind, PoolError
from haps_search.records.printed import OUTPUT, printing_to
from haps_search.records.remote import pulled, remote_of, working_folder_at
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import Engine
from haps_search.search.loop import run
from haps_search.sweep.attempts import take_over
from haps_search.sweep.claim import listener
from haps_search.sweep.inputs import at_hand
from haps_search.sweep.layout import lock_file, sweep_of
from haps_search.sweep.lock import told_to_leave
from haps_search.tasks.build import build_task
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.own import hold_task
from haps_search.tasks.tables.reading import hold
from haps_search.tasks.task import Task

_log = logging.getLogger(__name__)
_routers: list[tuple[AnyBackbone, Any]] = []
"""At most one, between two trials of this process: what it imported and loaded need not be again."""
METRICS = "metrics/"
"""Before the names of our metrics, as Tune flattens them, to tell them from its own."""


def run_trial(
    config: Mapping[str, Any],
    table: tuple[TableConfig, OutcomeTable] | None = None,
    own_task: Task | None = None,
) -> None:
    """Tune's trainable. Goes on from the run's own last checkpoint, whatever Tune remembers.

    `table` is what task replay reads, from the object store, with the description it was read under: a trial that
    describes its table otherwise reads its file. The router is then in this process. `own_task` is a Python object
    that the driver's program passed.

    What the setting or the user's data broke is written down and ends the trial; what may be otherwise the next time
    is raised, and the driver decides. The attempt writes in a folder of its own, what it prints too.
    """
    place = _place(config)
    with printing_to(place / OUTPUT):
        _attempt(config, place, table, own_task)


def _attempt(
    config: Mapping[str, Any], place: Path, table: tuple[TableConfig, OutcomeTable] | None, own_task: Task | None
) -> None:
    profile = ClusterProfile.model_validate(config["profile"])
    experiment = Experiment.model_validate(config["experiment"])
    if own_task is not None:
        hold_task(own_task)
    if table is not None:
        hold(*table)
    handed = table is not None and getattr(experiment.task, "table", None) == table[0]
    if config.get("store") is not None and not handed:
        experiment = renamed_in(experiment, at_hand(sweep_of(place)))
    folder = RunFolder(place, experiment)
    try:
        asyncio.run(_run(experiment, profile, config["namespace"], folder))
    except Interrupted as error:
        _log.info("%s: %s", folder.path, error)  # and return: without a result the trial stays open in the journal
    except HapsError as error:
        # Whose fault it is stands where it was raised: in the user's own code, for a reward or a task of theirs.
        _log.error("%s: %s", type(error).__name__, error, exc_info=error.__cause__)
        if error.kind is not Kind.PERMANENT:
            raise
        folder.fail(type(error).__name__, str(error))


def _place(config: Mapping[str, Any]) -> Path:
    """The attempt's folder, with what the one before had; where an object store keeps the runs, a fresh one of this
    trial's own, as the store has it."""
    if config.get("store") is None:
        root = Path()
    else:
        own = Path.cwd() / "runs"
        shutil.rmtree(own, ignore_errors=True)  # of an attempt before, with steps that the store may not have
        root = working_folder_at(own, config["store"])
    place = root / config["folder"]
    take_over(root / config.get("former", config["folder"]), place)
    return pulled(place)


def _broker(namespace: str) -> Any:
    try:
        return ray.get_actor(BROKER, namespace=namespace)
    except ValueError as error:
        raise PoolError(f"the broker of {namespace} is gone") from error


async def _run(experiment: Experiment, profile: ClusterProfile, namespace: str, folder: RunFolder) -> None:
    leaves = _leaves(sweep_of(folder.path))
    if leaves():
        return
    task = build_task(experiment.task)
    if experiment.task.type == "replay":
        await run(_table_engine(experiment, profile, task), task, experiment, folder, _report, leaves)
        return
    broker = _broker(namespace)
    named = f"trial {folder.path.name}"
    engine = await RayEngine.start(experiment, profile, broker, _kept_router(experiment), named)
    try:
        await run(engine, task, experiment, folder, _report, leaves, folder.doing)
    except Exception:
        await engine.close()
        raise
    except SystemExit:  # Tune's word for a trial that its scheduler stopped
        _keep_router(experiment, engine)
        raise
    _keep_router(experiment, engine)


def _leaves(sweep: Path) -> Callable[[], bool]:
    """Whether the driver asked its trials to save and leave."""
    remote = remote_of(sweep)
    return partial(told_to_leave, lock_file(sweep)) if remote is None else listener(remote.objects, sweep.name)


def _table_engine(experiment: Experiment, profile: ClusterProfile, task: Task) -> Engine:
    from haps_search.engines.local import LocalEngine  # torch, which no other trial needs
    from haps_search.engines.torch_process import prepare_torch

    gpus = profile.trial.gpus + profile.router.gpus if experiment.routing.reads_by_a_model else 0.0
    prepare_torch(profile.router.threads, gpus)
    return LocalEngine.build(experiment, task)


def _kept_router(experiment: Experiment) -> Any:
    """The router actor that the trial before this one in this process left, where it loaded the same backbone."""
    while _routers:
        backbone, router = _routers.pop()
        if backbone == experiment.routing.backbone:
            return router
        ray.kill(router)
    return None


def _keep_router(experiment: Experiment, engine: RayEngine) -> None:
    _routers.append((experiment.routing.backbone, engine.released()))


def _report(step: int, metrics: Mapping[str, float]) -> None:
    tune.report({"step": step, METRICS.rstrip("/"): dict(metrics)})
