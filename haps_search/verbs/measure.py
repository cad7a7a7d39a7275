"""Measurements on the session's pool: the comparison at the end of a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

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
from haps_search.engines.cluster.session import Session
from haps_search.errors import CheckpointError
from haps_search.evaluation.comparison import Row, comparison, score_frozen
from haps_search.evaluation.labels import ARCHITECTURE_ONLY, JOINT, STATIC
from haps_search.records.run_folder import EXAMPLES, RunFolder, identity
from haps_search.records.sealed import replace_text
from haps_search.search.engine import Engine, finished
from haps_search.search.outcome_step import score_known
from haps_search.search.validation import Scored, score_router
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import sweep_of, trial_folder
from haps_search.sweep.settings import comparisons, experiment_of
from haps_search.tasks.build import build_task
from haps_search.tasks.task import answerable
from haps_search.types import Assignment, Split
from haps_search.verbs.measured_rows import MeasuredRows

LEVELS = {"generated": JOINT, "static": STATIC, "none": ARCHITECTURE_ONLY}
"""What a router is called by its low level."""
CHEAP = (RandomReference(), BestSingleReference(), BestPerTaskReference(), KnnReference(), RidgeReference())
Label = TypeVar("Label")


def compared(live: Session, journal: Journal, study: Study, best: TrialRecord) -> list[Row]:
    """The comparison table on the whole validation split; only the best trial where comparison is off."""
    return finished(_compared(live, journal, study, best))


async def _compared(live: Session, journal: Journal, study: Study, best: TrialRecord) -> list[Row]:
    folder = journal.folder
    label = best_label(study, best)
    trials = {label: best}
    if not study.sweep.comparison:
        return comparison({}, _rewards(await _routers(live, folder, study, trials)), label)
    wanted = [(s.label, s.parameters, s.seed) for s in comparisons(study, best)]
    for trial in journal.trials():
        if trial.state == "finished" and (trial.label, trial.parameters, trial.seed) in wanted:
            trials[trial.label] = trial
    routers = await _routers(live, folder, study, trials)
    replays = study.experiment.task.type == "replay"  # its single models stand among the references
    frozen = {} if replays else await frozen_scores(live, folder, experiment_of(study, best), "validation")
    keep_texts(folder / "examples.jsonl", {**{f"frozen {', '.join(z)}": s for z, s in frozen.items()}, **routers})
    references = cheap_references(experiment_of(study, best)) if replays else {}
    return comparison(_rewards(frozen), {**references, **_rewards(routers)}, label)


def best_label(study: Study, best: TrialRecord) -> str:
    """What the best trial's row is called: by what its router decides."""
    return f"{LEVELS[experiment_of(study, best).routing.low_level.type]} (best trial)"


def cheap_references(best: Experiment) -> dict[str, tuple[float, ...]]:
    """What references that cost seconds earn on each validation question of a replay, in the order of its questions.

    They read what the run's router reads, and are tuned on the folds that it was trained on. `evaluate` compares all
    references.
    """
    from haps_search.evaluation.replay.asked import asked, measured  # scikit-learn, which other sweeps do not need
    from haps_search.evaluation.replay.standings import label_of

    questions = asked(best, [best], "validation")
    priced = (CheapestReference(),) if questions[0].train.costs is not None else ()
    config = ReferencesConfig(compared=(*priced, *CHEAP, PerQueryOracleReference()))
    return {label_of(each.type): tuple(each.rewards.tolist()) for each in measured(questions, config)}


async def _routers(live: Session, folder: Path, study: Study, trials: Mapping[str, TrialRecord]) -> dict[str, Scored]:
    scored = await score_trials(live, folder, study, list(trials.values()), "validation")
    return dict(zip(trials, scored, strict=True))


def _rewards(scored: Mapping[Label, Scored]) -> dict[Label, tuple[float, ...]]:
    return {label: each.rewards for label, each in scored.items()}


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
    split: Split,
    report: Callable[[TrialRecord, Scored], None] | None = None,
) -> list[Scored]:
    """The best checkpoint of each trial (one at least) on a whole split, one after another in one router actor.

    Raises:
        CheckpointError: a trial that left none.
    """
    scored = []
    engine = await live.engine(experiment_of(study, trials[0]))
    try:
        for index, trial in enumerate(trials):
            experiment = experiment_of(study, trial)
            if index:
                await engine.load(experiment)
            scored.append(await _score(engine, experiment, trial, trial_folder(sweep, trial.number), split))
            if report is not None:
                report(trial, scored[-1])
    finally:
        await engine.close()
    return scored


async def frozen_scores(live: Session, sweep: Path, experiment: Experiment, split: Split) -> dict[Assignment, Scored]:
    """Every assignment of frozen candidates on a whole split."""
    task = build_task(experiment.task)
    engine = await live.engine(experiment)
    try:
        names = [c.name for c in experiment.candidates]
        kept = MeasuredRows(sweep, split).row
        return await score_frozen(engine, task, task.questions(split), names, experiment.run.sampling, kept)
    finally:
        await engine.close()


async def _score(engine: Engine, experiment: Experiment, trial: TrialRecord, folder: Path, split: Split) -> Scored:
    checkpoint = RunFolder(folder, experiment).best()
    if checkpoint is None:
        raise CheckpointError(f"{folder}: trial {trial.number} left no checkpoint to measure")
    task = build_task(experiment.task)
    questions = answerable(task, split, [c.name for c in experiment.candidates])

    async def measured() -> Scored:
        await engine.restore(checkpoint.snapshot)
        if experiment.learning.signal == "outcomes":
            return (await score_known(engine, task, questions, experiment))[0]
        return await score_router(engine, task, questions, experiment.run.sampling)

    what = {"trial": trial.number, "step": checkpoint.step, "run": identity(experiment)}
    return await MeasuredRows(sweep_of(folder), split).row(what, questions, measured)
