"""Measurements with candidates at hand: trials and frozen candidates on the questions that tables report on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.references import (
    BestPerTaskReference,
    BestSingleReference,
    CheapestReference,
    KnnReference,
    PerQueryOracleReference,
    RandomReference,
    ReferencesConfig,
    RidgeReference,
)
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.engines.cluster.session import Session
from haps_search.errors import CheckpointError
from haps_search.evaluation.comparison import score_frozen
from haps_search.records.run_folder import EXAMPLES, RunFolder, identity
from haps_search.records.sealed import replace_text
from haps_search.search.engine import Engine
from haps_search.search.outcome_step import score_known
from haps_search.search.validation import Scored, score_router
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import sweep_of, trial_folder
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import Held, reported
from haps_search.types import Assignment
from haps_search.verbs.measured_rows import MeasuredRows

if TYPE_CHECKING:
    from haps_search.engines.local import LocalEngine

CHEAP = (RandomReference(), BestSingleReference(), BestPerTaskReference(), KnnReference(), RidgeReference())


def cheap_references(best: Experiment) -> dict[str, tuple[float, ...]]:
    """What references that cost seconds earn on each reported validation question of a replay, in their order.

    They read what the run's router reads, and are tuned on the folds that it was trained on. `evaluate` compares all
    references.
    """
    from haps_search.evaluation.replay.asked import asked, measured  # scikit-learn, which other sweeps do not need
    from haps_search.evaluation.replay.standings import label_of

    own = {question.id for question in reported(build_task(best.task), best, "validation")}
    questions = [each.only(own) for each in asked(best, [best], "validation")]
    priced = (CheapestReference(),) if questions[0].train.costs is not None else ()
    config = ReferencesConfig(compared=(*priced, *CHEAP, PerQueryOracleReference()))
    return {label_of(each.type): tuple(each.rewards.tolist()) for each in measured(questions, config)}


def keep_texts(file: Path, scored: Mapping[str, Scored]) -> None:
    """The same questions under every row of the table, side by side: what was said, and what it earned."""
    lines = []
    for index, episode in enumerate(next(iter(scored.values())).episodes[:EXAMPLES]):
        said = {
            label: {
                "assignment": list(each.episodes[index].assignment),
                "completions": [u.sampled.text for u in each.episodes[index].completions],
                "reward": each.rewards[index],
            }
            for label, each in scored.items()
        }
        question = episode.question
        head = {"question": question.id, "text": question.text, "reference": question.reference}
        lines.append(json.dumps({**head, **said}, ensure_ascii=False))
    replace_text(file, "\n".join(lines) + "\n")


async def score_trials(
    live: Session,
    sweep: Path,
    study: Study,
    trials: Sequence[TrialRecord],
    split: Held,
    report: Callable[[TrialRecord, Scored], None] | None = None,
) -> list[Scored]:
    """The best checkpoint of each trial (one at least) on a split, one after another in one router actor.

    Raises:
        CheckpointError: a trial that left none.
    """
    first = experiment_of(study, trials[0])
    engine = await live.engine(first)
    try:
        return await score_with(engine, sweep, study, trials, split, report, first)
    finally:
        await engine.close()


async def score_with(
    engine: RayEngine | LocalEngine,
    sweep: Path,
    study: Study,
    trials: Sequence[TrialRecord],
    split: Held,
    report: Callable[[TrialRecord, Scored], None] | None = None,
    loaded: Experiment | None = None,
) -> list[Scored]:
    """As `score_trials`, with an engine whose router each trial's takes the place of; `loaded` says whose it has."""
    scored = []
    for trial in trials:
        experiment = experiment_of(study, trial)
        if experiment != loaded:
            await engine.load(experiment)
        loaded = experiment
        scored.append(await _score(engine, experiment, trial, trial_folder(sweep, trial.number), split))
        if report is not None:
            report(trial, scored[-1])
    return scored


async def frozen_scores(live: Session, sweep: Path, experiment: Experiment, split: Held) -> dict[Assignment, Scored]:
    """Every assignment of frozen candidates on a split."""
    task = build_task(experiment.task)
    engine = await live.engine(experiment)
    try:
        names = [c.name for c in experiment.candidates]
        kept, questions = MeasuredRows(sweep, split).row, reported(task, experiment, split)
        asked_by = identity(experiment)["task"]
        return await score_frozen(engine, task, questions, names, experiment.run.sampling, kept, asked_by)
    finally:
        await engine.close()


async def _score(engine: Engine, experiment: Experiment, trial: TrialRecord, folder: Path, split: Held) -> Scored:
    checkpoint = RunFolder(folder, experiment).best()
    if checkpoint is None:
        raise CheckpointError(f"{folder}: trial {trial.number} left no checkpoint to measure")
    task = build_task(experiment.task)
    questions = reported(task, experiment, split)

    async def measured() -> Scored:
        await engine.restore(checkpoint.snapshot)
        if experiment.learning.signal == "outcomes":
            return (await score_known(engine, task, questions, experiment))[0]
        return await score_router(engine, task, questions, experiment.run.sampling)

    what = {"trial": trial.number, "step": checkpoint.step, "run": identity(experiment)}
    return await MeasuredRows(sweep_of(folder), split).row(what, questions, measured)
