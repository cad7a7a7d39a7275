"""How far a run is, and how its stages begin: at the last checkpoint, or where the stage before led."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

from haps_search.config.run import Experiment
from haps_search.errors import CheckpointError
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import Engine
from haps_search.search.warm_start import held, warm_start
from haps_search.types import START, Snapshot

_log = logging.getLogger(__name__)
_LEARNT = "router."
Reason = Literal["steps", "patience"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps done, its best validation so far, what its candidates earned (`RunningMeans`), and the
    seconds that its steps, validations and checkpoints took, whatever was done again after an interruption left out."""

    step: int = 0
    best_step: int = 0
    best_reward: float = float("-inf")
    since_best: int = 0
    earned: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def validated(self, done: int, reward: float) -> Progress:
        if reward > self.best_reward:
            return replace(self, best_step=done, best_reward=reward, since_best=0)
        return replace(self, since_best=self.since_best + 1)

    def entered(self, first: int, best_reward: float) -> Progress:
        """At the beginning of a stage: only the best so far is kept of the one before, at its worth in this stage."""
        return replace(self, step=first, best_reward=best_reward, since_best=0, earned={})


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, with the metrics of its best validation."""

    reason: Reason
    steps: int
    best_step: int
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run: an experiment whose steps are `first` + 1 .. `last` of the run's. `number` is from 1, 0 where
    the run has no stages."""

    experiment: Experiment
    first: int = 0
    number: int = 0

    @property
    def last(self) -> int:
        return self.first + self.experiment.run.steps

    @property
    def named(self) -> dict[str, float]:
        """What records say of it, nothing where the run has no stages."""
        return {"stage": float(self.number)} if self.number else {}

    def over(self, progress: Progress) -> Reason | None:
        """Why it has ended, None where it has not."""
        patience = self.experiment.run.validation.patience
        if progress.step >= self.last:
            return "steps"
        return "patience" if patience and progress.since_best >= patience else None


def stages_of(experiment: Experiment) -> list[Stage]:
    """What a run plays, in order; the experiment itself where it has no stages."""
    if not experiment.stages:
        return [Stage(experiment)]
    played = experiment.played()
    firsts = accumulate((each.run.steps for each in played), initial=0)
    return [Stage(each, first, number) for number, (each, first) in enumerate(zip(played, firsts, strict=False), 1)]


def in_words(experiment: Experiment) -> list[tuple[str, str]]:
    """A (label, text) pair for the run, or for each of its stages."""
    return [
        (
            f"stage {stage.number}" if stage.number else "run",
            f"{run.steps} steps x {run.questions_per_step} questions x {run.episodes_per_question} episodes"
            + (f", {stage.experiment.learning.signal}" if stage.number else ""),
        )
        for stage in stages_of(experiment)
        for run in (stage.experiment.run,)
    ]


async def begin(engine: Engine, stage: Stage, folder: RunFolder) -> Progress | None:
    """Put the engine where the stage goes on: at the run's last checkpoint, records beyond it dropped, or where the
    stage before led, or `run.warm_start`. None where the run is beyond this stage.

    Raises:
        ConfigError, CheckpointError: as in `warm_start`.
    """
    latest = folder.latest()
    there = Progress() if latest is None else Progress(**latest.state)
    if latest is not None and there.step > stage.last:
        return None
    folder.forget_after(there.step)
    if stage.number:
        await engine.load(stage.experiment)
    if latest is None:
        await warm_start(engine, stage.experiment, folder.path)
    elif there.step > stage.first:
        await engine.restore(latest.snapshot)
    else:
        return await _carry_on(engine, stage, folder, there)
    return there


async def _carry_on(engine: Engine, stage: Stage, folder: RunFolder, there: Progress) -> Progress:
    """Begin with what the run had learnt at its best step so far; what that was worth is known where the stages before
    measured what this one is best in."""
    best = folder.best()
    if best is None:
        raise CheckpointError(f"{folder.path}: stage {stage.number} has no best step to begin with; remove the run")
    holds = stage.experiment.learning.kl_to == "start"
    await engine.restore(held(carried(best.snapshot)) if holds else carried(best.snapshot))
    _log.info("stage %d begins after step %d with step %d", stage.number, stage.first, best.step)
    wanted = f"validation_{stage.experiment.run.validation.best}"
    return there.entered(stage.first, folder.metrics_at(best.step).get(wanted, float("-inf")))


def carried(snapshot: Snapshot) -> Snapshot:
    """What a router had learnt, before its first step: without the optimiser's moments, or a beginning to hold to."""
    learnt = {name: value for name, value in snapshot.tensors.items() if name.startswith(_LEARNT)}
    fitted = {name: value for name, value in snapshot.fitted.items() if not name.startswith(START)}
    return Snapshot(learnt, {"version": 0}, fitted)
