"""Measurements on the session's pool: the comparison at the end of a sweep."""

from __future__ import annotations

import asyncio
from pathlib import Path

from haps_search.config.sweep import Study
from haps_search.engines.cluster.engine import RayEngine
from haps_search.engines.cluster.session import Session
from haps_search.errors import CheckpointError
from haps_search.evaluation.comparison import Row, comparison, frozen_rewards
from haps_search.records.run_folder import RunFolder
from haps_search.search.validation import Scored, score_router
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.plan import experiment_of
from haps_search.tasks.build import build_task

JOINT = "joint (best trial)"


def compared(live: Session, journal: Journal, study: Study, best: TrialRecord) -> list[Row]:
    """The comparison table on the whole validation split; only the best trial where comparison is off."""
    return asyncio.run(_compared(live, journal, study, best))


async def _compared(live: Session, journal: Journal, study: Study, best: TrialRecord) -> list[Row]:
    folder = journal.folder
    joint = await _score(live, study, best, trial_folder(folder, best.number))
    routers = {JOINT: joint.rewards}
    if not study.sweep.comparison:
        return comparison({}, routers, JOINT)
    for trial in journal.trials():
        if trial.kind == "comparison" and trial.state == "finished":
            scored = await _score(live, study, trial, trial_folder(folder, trial.number))
            routers[trial.label] = scored.rewards
    experiment = experiment_of(study, best)
    task = build_task(experiment.task)
    engine = await RayEngine.start(experiment, live.profile, live.broker)
    try:
        names = [c.name for c in experiment.candidates]
        frozen = await frozen_rewards(engine, task, task.questions("validation"), names, experiment.run.sampling)
    finally:
        await engine.close()
    return comparison(frozen, routers, JOINT)


async def _score(live: Session, study: Study, trial: TrialRecord, folder: Path) -> Scored:
    experiment = experiment_of(study, trial)
    task = build_task(experiment.task)
    checkpoint = RunFolder(folder, experiment).best()
    if checkpoint is None:
        raise CheckpointError(f"{folder}: trial {trial.number} left no checkpoint to measure")
    engine = await RayEngine.start(experiment, live.profile, live.broker)
    try:
        await engine.restore(checkpoint.snapshot)
        return await score_router(engine, task, task.questions("validation"), experiment.run.sampling)
    finally:
        await engine.close()
