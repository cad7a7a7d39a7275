"""Warm-up: the high level learns from an outcome table, in a run folder that `train` and `sweep` can start from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.engines import LocalEngineConfig
from haps_search.config.routing import NoLowLevel
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.config.tables import TableConfig
from haps_search.engines.assembly import build_learner
from haps_search.engines.torch_process import prepare_torch
from haps_search.errors import CheckpointError, ConfigError
from haps_search.evaluation.warmup_table import WarmupRow, warmup_rows
from haps_search.learning.from_tables import TaughtRows, held_out_split, learn, scores, taught_rows
from haps_search.learning.update import Learner
from haps_search.records.run_folder import RunFolder
from haps_search.records.sealed import replace_text
from haps_search.routing.distribution import all_assignments
from haps_search.search.loop import batch
from haps_search.search.stages import Progress, RunResult
from haps_search.tasks.build import build_task
from haps_search.tasks.tables.reading import read_table
from haps_search.tasks.task import Task
from haps_search.verbs.events import Counted, Report, Said, silent
from haps_search.verbs.find import named_folder
from haps_search.verbs.frames import frame, interval, page

if TYPE_CHECKING:
    from pandas import DataFrame


TABLE = "table.json"
Done = Callable[[int, dict[str, float]], None]
"""Steps done and the metrics of the last one."""


@dataclass(frozen=True)
class WarmupResult:
    """What the warmed router earns on `held_out` questions, its row last, from the checkpoint of a step."""

    name: str
    folder: Path
    rows: tuple[WarmupRow, ...]
    step: int
    seed: int

    @property
    def frame(self) -> DataFrame:
        """A row per line of the table: reward, and what the likeliest assignment gains over it, with 95 % intervals."""
        return frame([{"": r.label, **interval("reward", r.reward), **interval("gain", r.gain)} for r in self.rows], "")

    def _repr_html_(self) -> str:
        return page(f"warm-up {self.name}, step {self.step}", {"held-out questions": self.frame})


def warmup_experiment(experiment: Experiment, questions: int) -> Experiment:
    """The run that warms up on so many questions: no low level, and as many steps as its epochs have.

    It is an architecture-only run like any other, so its folder is read by everything that reads runs.
    """
    steps = experiment.run.warmup.epochs * _steps_per_epoch(experiment, questions)
    run = experiment.run.model_copy(update={"steps": steps, "warm_start": None, "warm_start_low": False, "half": None})
    routing = experiment.routing.model_copy(update={"low_level": NoLowLevel(), "share_backbone": True})
    # What teaches adapters alone, or holds to them, says nothing of the high level.
    signal = "rollouts" if experiment.learning.signal == "references" else experiment.learning.signal
    learning = experiment.learning.model_copy(update={"signal": signal, "kl_to": "frozen"})
    return experiment.model_copy(update={"run": run, "routing": routing, "learning": learning, "stages": ()})


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
    done_step: Done,
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
        done_step(done, metrics)
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


def warmup(
    study: Study, table: str | Path, name: str | None = None, runs: str | Path = "runs", report: Report = silent
) -> WarmupResult:
    """Warm the study's high level on an outcome table, in this process; candidates are not loaded. The same again goes
    on, and a run or sweep starts from it by `run.warm_start`.

    Raises:
        ConfigError, DataError: a table that does not fit the study, or a folder of another run.
    """
    file, task = Path(table).absolute(), build_task(study.experiment.task)
    folder = named_folder(runs, name or f"{study.name}-warmup")
    names, roles = [c.name for c in study.experiment.candidates], len(task.roles)
    rows = taught_rows(read_table(TableConfig(file=str(file), missing="keep")), names, roles, study.experiment.learning)
    train, held_out = held_out_split(rows, study.experiment.run.warmup.held_out)
    experiment = warmup_experiment(study.experiment, len(train.questions))
    report(Said(f"warm-up {folder}: {len(train.questions)} questions to learn from, {len(held_out.questions)} aside"))
    for remark in rows.left_out:
        report(Said(f"left out: {remark}"))
    learner = _learner(experiment, task)
    claim(folder, file)
    run = RunFolder(folder, experiment)
    _learn(learner, experiment, train, held_out, run, report)
    best = run.best()
    if best is None:
        raise CheckpointError(f"{folder}: the best checkpoint is gone; remove the folder and warm up again")
    learner.restore(best.snapshot)
    found = warmup_rows(train.rewards, held_out.rewards, all_assignments(names, roles), scores(learner, held_out))
    replace_text(folder / "warmup.json", json.dumps({"step": best.step, "rows": [asdict(r) for r in found]}, indent=1))
    return WarmupResult(folder.name, folder, tuple(found), best.step, experiment.run.seed)


def _learner(experiment: Experiment, task: Task) -> Learner:
    engine = experiment.engine
    prepare_torch(engine.threads if isinstance(engine, LocalEngineConfig) else None)
    learner = build_learner(experiment, task, {})
    if not learner.router.high.learns:
        kind = experiment.routing.high_level.type
        raise ConfigError(
            f"routing.high_level: {kind} learns nothing here; warm-up needs one that learns, such as head"
        )
    return learner


def _learn(
    learner: Learner, experiment: Experiment, train: TaughtRows, held_out: TaughtRows, run: RunFolder, report: Report
) -> None:
    def done_step(step: int, metrics: dict[str, float]) -> None:
        report(Counted("steps", step, experiment.run.steps))
        if "validation_reward" in metrics:
            report(
                Said(
                    f"step {step}/{experiment.run.steps}  loss {metrics['outcome_loss']:.3f}  expected reward "
                    f"{metrics['validation_expected_reward']:.3f}  likeliest {metrics['validation_reward']:.3f}  "
                    f"entropy {metrics['validation_entropy']:.3f}"
                )
            )

    latest = run.latest()
    report(Counted("steps", latest.step if latest else 0, experiment.run.steps))
    warm_up(learner, experiment, train, held_out, run, done_step)
