"""Measurements on the session's pool: the comparison at the end of a sweep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from haps_search.config.sweep import Study
from haps_search.engines.cluster.engine import RayEngine
from haps_search.engines.cluster.session import Session
from haps_search.errors import CheckpointError
from haps_search.evaluation.comparison import Row, comparison, score_frozen
from haps_search.records.run_folder import EXAMPLES, RunFolder
from haps_search.records.sealed import replace_text
from haps_search.search.validation import Scored, score_router
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.plan import comparisons, experiment_of
from haps_search.tasks.build import build_task

JOINT = "joint (best trial)"
Label = TypeVar("Label")


def compared(live: Session, journal: Journal, study: Study, best: TrialRecord) -> list[Row]:
    """The comparison table on the whole validation split; only the best trial where comparison is off."""
    return asyncio.run(_compared(live, journal, study, best))


async def _compared(live: Session, journal: Journal, study: Study, best: TrialRecord) -> list[Row]:
    folder = journal.folder
    routers = {JOINT: await _score(live, study, best, trial_folder(folder, best.number))}
    if not study.sweep.comparison:
        return comparison({}, _rewards(routers), JOINT)
    wanted = [(s.label, s.parameters, s.seed) for s in comparisons(study, best)]
    for trial in journal.trials():
        if trial.state == "finished" and (trial.label, trial.parameters, trial.seed) in wanted:
            routers[trial.label] = await _score(live, study, trial, trial_folder(folder, trial.number))
    experiment = experiment_of(study, best)
    task = build_task(experiment.task)
    engine = await RayEngine.start(experiment, live.profile, live.broker)
    try:
        names = [c.name for c in experiment.candidates]
        frozen = await score_frozen(engine, task, task.questions("validation"), names, experiment.run.sampling)
    finally:
        await engine.close()
    _keep_texts(folder / "examples.jsonl", {**{f"frozen {', '.join(z)}": s for z, s in frozen.items()}, **routers})
    return comparison(_rewards(frozen), _rewards(routers), JOINT)


def _rewards(scored: Mapping[Label, Scored]) -> dict[Label, tuple[float, ...]]:
    return {label: each.rewards for label, each in scored.items()}


def _keep_texts(file: Path, scored: Mapping[str, Scored]) -> None:
    """The same questions under every row of the table, side by side: what was said, and what it earned."""
    lines = []
    for index, episode in enumerate(next(iter(scored.values())).episodes[:EXAMPLES]):
        said = {
            label: {
                "assignment": list(each.episodes[index].assignment),
                "said": [u.response.text for u in each.episodes[index].utterances],
                "reward": each.rewards[index],
            }
            for label, each in scored.items()
        }
        question = episode.question
        head = {"question": question.id, "text": question.text, "reference": question.reference}
        lines.append(json.dumps({**head, **said}, ensure_ascii=False))
    replace_text(file, "\n".join(lines) + "\n")


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
