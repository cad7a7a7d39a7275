"""Warm-up: the high level learns from an outcome table, in a run folder that `train` and `sweep` can start from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from haps_search.config.routing import NoLowLevel
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.learning.from_tables import TaughtRows, learn, scores
from haps_search.learning.update import Learner
from haps_search.records.run_folder import RunFolder
from haps_search.records.sealed import replace_text
from haps_search.search.loop import Progress, RunResult, batch

TABLE = "table.json"
Report = Callable[[int, dict[str, float]], None]
"""Steps done and the metrics of the last one."""


def warmup_experiment(experiment: Experiment, questions: int) -> Experiment:
    """The run that warms up on so many questions: no low level, and as many steps as its epochs have.

    It is an architecture-only run like any other, so its folder is read by everything that reads runs.
    """
    steps = experiment.run.warmup.epochs * _steps_per_epoch(experiment, questions)
    run = experiment.run.model_copy(update={"steps": steps, "warm_start": None})
    routing = experiment.routing.model_copy(update={"low_level": NoLowLevel(), "share_backbone": True})
    return experiment.model_copy(update={"run": run, "routing": routing})


def claim(folder: Path, table: Path) -> None:
    """Bind a run folder to the table it learns from.

    Raises:
        ConfigError: the folder is another kind of run, or learnt from another table.
    """
    with table.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = folder / TABLE
    if note.exists():
        stored = json.loads(note.read_text())
        if stored["sha256"] != digest:
            raise ConfigError(
                f"{folder} learnt from {stored['file']} (sha256 {stored['sha256'][:12]}), this is {table} "
                f"(sha256 {digest[:12]}): give this warm-up a name of its own"
            )
        return
    if (folder / "experiment.json").exists():
        raise ConfigError(f"{folder} is a run that is no warm-up: give this warm-up a name of its own")
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(note, json.dumps({"file": str(table), "sha256": digest}))


def warm_up(
    learner: Learner,
    experiment: Experiment,
    train: TaughtRows,
    held_out: TaughtRows,
    folder: RunFolder,
    report: Report,
) -> RunResult:
    """Go on from the last checkpoint to the end; the best by expected reward on `held_out` is kept as best.

    `experiment` is what `warmup_experiment` made. Safe to kill at any moment and to call again.

    Raises:
        CheckpointError: the folder was made under another configuration. Diverged: the last checkpoint stays.
    """
    progress = _restore(learner, folder)
    ended = folder.result()
    if ended is not None:
        return RunResult(**ended)
    per_epoch = _steps_per_epoch(experiment, len(train.questions))
    for index in range(progress.step, experiment.run.steps):
        began = time.perf_counter()
        picked = train.part(batch(range(len(train.questions)), experiment, index))
        metrics = {**learn(learner, picked).metrics, "step_seconds": time.perf_counter() - began}
        done = index + 1
        progress = replace(progress, step=done)
        validates = done % per_epoch == 0
        if validates:
            metrics |= validation(learner, held_out)
            progress = progress.validated(done, metrics["validation_expected_reward"])
        folder.log(done, metrics)
        if validates or done % experiment.run.checkpoint_every == 0:
            best = validates and progress.best_step == done
            folder.save(done, learner.snapshot(), asdict(progress), best)
        report(done, metrics)
    result = RunResult("steps", progress.step, progress.best_step, folder.metrics_at(progress.best_step))
    folder.finish(result.to_json())
    return result


def validation(learner: Learner, held_out: TaughtRows) -> dict[str, float]:
    """Means over the held-out questions; `validation_reward` is the likeliest assignment's, as in every run."""
    scored = scores(learner, held_out)
    return {
        "validation_expected_reward": float(scored.expected.mean()),
        "validation_reward": float(scored.greedy.mean()),
        "validation_entropy": scored.entropy,
    }


def _steps_per_epoch(experiment: Experiment, questions: int) -> int:
    return -(-questions // experiment.run.questions_per_step)


def _restore(learner: Learner, folder: RunFolder) -> Progress:
    checkpoint = folder.latest()
    folder.forget_after(0 if checkpoint is None else checkpoint.step)
    if checkpoint is None:
        return Progress()
    learner.restore(checkpoint.snapshot)
    return Progress(**checkpoint.state)
