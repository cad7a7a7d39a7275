"""A run: steps from the last checkpoint to the end, validated, saved and reported on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

from haps_search.config.run import Experiment
from haps_search.learning.cost import mean_cost, prices
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import Engine
from haps_search.search.step import step
from haps_search.search.validation import score_router, validation_metrics
from haps_search.search.warm_start import warm_start
from haps_search.seeds import derive_seed
from haps_search.tasks.task import Task

Item = TypeVar("Item")
Report = Callable[[int, Mapping[str, float]], None]
"""Step count and metrics, after each validation; the checkpoint of that step is already on disk."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps done, and its best validation so far."""

    step: int = 0
    best_step: int = 0
    best_reward: float = float("-inf")
    since_best: int = 0

    def validated(self, done: int, reward: float) -> Progress:
        if reward > self.best_reward:
            return replace(self, best_step=done, best_reward=reward, since_best=0)
        return replace(self, since_best=self.since_best + 1)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, with the metrics of its best validation."""

    reason: Literal["steps", "patience"]
    steps: int
    best_step: int
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def run(
    engine: Engine, task: Task, experiment: Experiment, folder: RunFolder, report: Report | None = None
) -> RunResult:
    """Run to the end, or give back the result of a run that already ended.

    Raises:
        Diverged, PoolError, CandidateError, DataError: the last checkpoint stays and the run can go on.
    """
    ended = folder.result()
    if ended is not None:
        return RunResult(**ended)
    progress = await _restore(engine, experiment, folder)
    settings = experiment.run
    train = task.questions("train")
    held_out = task.questions("validation")[: settings.validation.questions]
    reason: Literal["steps", "patience"] = "steps"
    for index in range(progress.step, settings.steps):
        if settings.validation.patience and progress.since_best >= settings.validation.patience:
            reason = "patience"
            break
        done = index + 1
        metrics = await step(engine, task, batch(train, experiment, index), experiment, index)
        progress = replace(progress, step=done)
        last = done == settings.steps
        validates = last or done % settings.validation.every == 0
        if validates:
            scored = await score_router(engine, task, held_out, settings.sampling)
            metrics |= validation_metrics(scored, [c.name for c in experiment.candidates])
            metrics["validation_cost"] = mean_cost(scored.episodes, prices(experiment.candidates))
            progress = progress.validated(done, scored.mean)
            folder.keep_examples(done, scored.episodes, scored.rewards)
        folder.log(done, metrics)
        if validates or done % settings.checkpoint_every == 0:
            best = validates and progress.best_step == done
            folder.save(done, await engine.snapshot(), asdict(progress), best)
        if validates and report is not None:
            report(done, metrics)
    result = RunResult(reason, progress.step, progress.best_step, folder.metrics_at(progress.best_step))
    folder.finish(result.to_json())
    return result


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


async def _restore(engine: Engine, experiment: Experiment, folder: RunFolder) -> Progress:
    """Back to the last checkpoint, records beyond it dropped: the steps since are taken again."""
    checkpoint = folder.latest()
    if checkpoint is None:
        folder.forget_after(0)
        await warm_start(engine, experiment, folder.path)
        return Progress()
    await engine.restore(checkpoint.snapshot)
    folder.forget_after(checkpoint.step)
    return Progress(**checkpoint.state)
