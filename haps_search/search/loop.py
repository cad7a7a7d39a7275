"""A run: stage by stage, steps from the last checkpoint to the end, validated, saved and reported on the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TypeVar

from haps_search.config.run import Experiment
from haps_search.errors import Interrupted
from haps_search.learning.advantage import RunningMeans
from haps_search.learning.references import teaching
from haps_search.learning.utility import mean_cost, prices
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import Engine
from haps_search.search.outcome_step import outcome_step, score_known
from haps_search.search.reference_step import Count, held_out_references, read_once, reference_step
from haps_search.search.stages import Progress, Reason, RunResult, Stage, begin, stages_of
from haps_search.search.step import Played, Step, step
from haps_search.search.validation import Scored, score_router, validation_metrics
from haps_search.seeds import derive_seed
from haps_search.tasks.held_out import choosing, learnt
from haps_search.tasks.task import Tabled, Task
from haps_search.types import Question

Item = TypeVar("Item")
Report = Callable[[int, Mapping[str, float]], None]
"""Step count and metrics, after each validation; the checkpoint of that step is already on disk."""


async def run(
    engine: Engine,
    task: Task,
    experiment: Experiment,
    folder: RunFolder,
    report: Report | None = None,
    leaves: Callable[[], bool] = lambda: False,
    count: Count = lambda label, done, total: None,
) -> RunResult:
    """Run to the end, or give back the result of a run that already ended. `leaves` is asked after each step; `count`
    is told how far what comes before the first step is.

    Raises:
        Interrupted: `leaves` said so; the step is saved, unless the next was being played already (`run.staleness`).
        Diverged, PoolError, CandidateError, DataError: the last checkpoint stays and the run can go on.
    """
    ended = folder.result()
    if ended is not None:
        return RunResult(**ended)
    reason: Reason = "steps"
    progress = Progress()
    for stage in stages_of(experiment):
        begun = await begin(engine, stage, folder)
        if begun is not None:
            reason, progress = await _play(engine, task, stage, folder, begun, report, leaves, count)
    return _finish(folder, reason, progress)


async def _play(
    engine: Engine,
    task: Task,
    stage: Stage,
    folder: RunFolder,
    progress: Progress,
    report: Report | None,
    leaves: Callable[[], bool],
    count: Count,
) -> tuple[Reason, Progress]:
    """The steps that a stage has left; why and where it ended. Questions and seeds are those of a run of its own."""
    experiment, settings = stage.experiment, stage.experiment.run
    train = learnt(task, experiment)
    held_out = validated(task, experiment)
    means = RunningMeans(progress.earned)
    if experiment.learning.signal == "references" and stage.over(progress) is None:
        names = [c.name for c in experiment.candidates]
        train = teaching(task, train, names, experiment.learning.references)
        await read_once(engine, task, _met(train, held_out, experiment), experiment, count, leaves)
    ahead: Played | None = None
    mark, reason = time.perf_counter(), stage.over(progress)
    while reason is None:
        done = progress.step + 1
        index, last = progress.step - stage.first, done == stage.last
        validates = last or (index + 1) % settings.validation.every == 0
        saves = validates or (index + 1) % settings.checkpoint_every == 0
        overlaps = settings.staleness == 1 and not saves
        following = batch(train, experiment, index + 1) if overlaps else None
        questions = batch(train, experiment, index)
        taken = await _step(engine, task, experiment, index, questions, means, ahead, following)
        metrics, ahead = taken.metrics | stage.named, taken.ahead
        progress = replace(progress, step=done, earned=means.state())
        if validates:
            scored, found = await _validate(engine, task, held_out, experiment)
            metrics |= found
            metrics["run_seconds"] = progress.seconds + time.perf_counter() - mark
            progress = progress.validated(done, found[f"validation_{settings.validation.best}"])
            folder.keep_examples(done, scored.episodes, scored.rewards)
        if validates or (index + 1) % settings.record_every == 0:
            folder.log(done, metrics)
        progress = replace(progress, seconds=progress.seconds + time.perf_counter() - mark)
        mark = time.perf_counter()
        reason = stage.over(progress)
        left = reason is None and leaves()
        if saves or (left and not overlaps):  # what was played ahead of a step is not saved with it
            await _save(engine, folder, stage, progress, validates)
        if validates and report is not None:
            report(done, metrics)
        if left:
            where = "goes on from its last checkpoint" if overlaps else f"saved at step {done}"
            raise Interrupted(f"asked to leave, {where}")
    return reason, progress


async def _save(engine: Engine, folder: RunFolder, stage: Stage, progress: Progress, validated: bool) -> None:
    best = validated and progress.best_step == progress.step
    folder.save(progress.step, await engine.snapshot(), asdict(progress), best, stage.first)


def _finish(folder: RunFolder, reason: Reason, progress: Progress) -> RunResult:
    result = RunResult(reason, progress.step, progress.best_step, folder.metrics_at(progress.best_step))
    folder.finish(result.to_json())
    return result


async def _step(
    engine: Engine,
    task: Task,
    experiment: Experiment,
    index: int,
    questions: Sequence[Question],
    means: RunningMeans,
    ahead: Played | None,
    following: Sequence[Question] | None,
) -> Step:
    if experiment.learning.signal == "rollouts":
        return await step(engine, task, experiment, index, questions, means, ahead, following)
    if experiment.learning.signal == "references":
        return Step(await reference_step(engine, task, questions, experiment, index))
    assert isinstance(task, Tabled)
    return Step(await outcome_step(engine, task, questions, experiment, index))


async def _validate(
    engine: Engine, task: Task, questions: Sequence[Question], experiment: Experiment
) -> tuple[Scored, dict[str, float]]:
    """Greedy choices and their metrics, among them `validation_utility`, reward less what cost weighs."""
    if experiment.learning.signal == "outcomes":
        return await score_known(engine, task, questions, experiment)
    scored = await score_router(engine, task, questions, experiment.run.sampling)
    found = validation_metrics(scored, [c.name for c in experiment.candidates])
    paid = mean_cost(scored.episodes, prices(experiment.candidates))
    utility = scored.mean - experiment.learning.cost_weight * paid
    if experiment.learning.signal == "references":
        found |= await held_out_references(engine, task, questions, experiment)
    return scored, {"validation_cost": paid, "validation_utility": utility, **found}


def validated(task: Task, experiment: Experiment) -> Sequence[Question]:
    """The questions that a run is validated on, the same for every seed: of those that choose, no other.

    A file may be sorted, by task for instance, so that its first questions are no sample: they are taken by a hash.
    """
    asked = choosing(task, experiment)
    if experiment.run.validation.drawn == "hash" or isinstance(task, Tabled):
        asked = sorted(asked, key=lambda question: derive_seed("validation", question.id))
    return asked[: experiment.run.validation.questions]


def _met(train: Sequence[Question], held_out: Sequence[Question], experiment: Experiment) -> list[Question]:
    """The questions that the steps and validations of a run come to, each once."""
    epoch = min(experiment.run.steps, -(-len(train) // experiment.run.questions_per_step))
    learnt = (question for index in range(epoch) for question in batch(train, experiment, index))
    return list({(question.id, question.text): question for question in (*learnt, *held_out)}.values())


def batch(questions: Sequence[Item], experiment: Experiment, index: int) -> list[Item]:
    """The Q questions of a step: shuffled anew each epoch, and a function of seed and index alone."""
    size, total = experiment.run.questions_per_step, len(questions)
    picked = []
    for position in range(index * size, (index + 1) * size):
        epoch, offset = divmod(position, total)
        picked.append(questions[_order(experiment.run.seed, epoch, total)[offset]])
    return picked


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, total: int) -> tuple[int, ...]:
    order = list(range(total))
    random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
    return tuple(order)
