"""Training the high level on an outcome table, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from haps_search.cli.counting import counting
from haps_search.cli.display import wide_console
from haps_search.config.engines import LocalEngineConfig
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.config.tables import TableConfig
from haps_search.engines.assembly import build_learner, prepare_torch
from haps_search.errors import CheckpointError, ConfigError
from haps_search.evaluation.warmup_table import WarmupRow, warmup_rows
from haps_search.learning.from_tables import TaughtRows, held_out_split, scores, taught_rows
from haps_search.learning.update import Learner
from haps_search.records.run_folder import RunFolder
from haps_search.records.sealed import replace_text
from haps_search.routing.distribution import all_assignments
from haps_search.search.warmup import claim, warm_up, warmup_experiment
from haps_search.tasks.build import build_task
from haps_search.tasks.tables.reading import read_table


def warm_up_on(study: Study, file: Path, folder: Path) -> list[WarmupRow]:
    """Warm the study's high level on a table, in this process; candidates are not loaded.

    Raises:
        ConfigError, DataError: a table that does not fit the study, or a folder of another run.
    """
    console, task = wide_console(), build_task(study.experiment.task)
    names, roles = [c.name for c in study.experiment.candidates], len(task.roles)
    table = read_table(TableConfig(file=str(file), missing="keep"))
    rows = taught_rows(table, names, roles, study.experiment.learning)
    train, held_out = held_out_split(rows, study.experiment.run.warmup.held_out)
    experiment = warmup_experiment(study.experiment, len(train.questions))
    _say(console, f"warm-up {folder}: {len(train.questions)} questions to learn from, {len(held_out.questions)} aside")
    for remark in rows.left_out:
        _say(console, f"left out: {remark}")
    engine = experiment.engine
    prepare_torch(engine.threads if isinstance(engine, LocalEngineConfig) else None)
    learner = build_learner(experiment, task, {})
    if not learner.router.high.learns:
        kind = experiment.routing.high_level.type
        raise ConfigError(
            f"routing.high_level: {kind} learns nothing here; warm-up needs one that learns, such as head"
        )
    claim(folder, file)
    run = RunFolder(folder, experiment)
    _train(console, learner, experiment, train, held_out, run)
    best = run.best()
    if best is None:
        raise CheckpointError(f"{folder}: the best checkpoint is gone; remove the folder and warm up again")
    learner.restore(best.snapshot)
    found = warmup_rows(train.rewards, held_out.rewards, all_assignments(names, roles), scores(learner, held_out))
    replace_text(folder / "warmup.json", json.dumps({"step": best.step, "rows": [asdict(r) for r in found]}, indent=1))
    _close(console, found, experiment, best.step, folder)
    return found


def _train(
    console: Console, learner: Learner, experiment: Experiment, train: TaughtRows, held_out: TaughtRows, run: RunFolder
) -> None:
    latest = run.latest()
    done = latest.step if latest else 0
    with counting(console, "steps", done, experiment.run.steps) as advance:

        def report(step: int, metrics: dict[str, float]) -> None:
            advance(1)
            if "validation_reward" in metrics:
                _say(
                    console,
                    f"step {step}/{experiment.run.steps}  loss {metrics['outcome_loss']:.3f}  expected reward "
                    f"{metrics['validation_expected_reward']:.3f}  likeliest {metrics['validation_reward']:.3f}  "
                    f"entropy {metrics['validation_entropy']:.3f}",
                )

        warm_up(learner, experiment, train, held_out, run, report)


def _close(console: Console, rows: Sequence[WarmupRow], experiment: Experiment, step: int, folder: Path) -> None:
    count, seed = rows[0].reward.count, experiment.run.seed
    _say(console, f"\nreward on {count} held-out questions, checkpoint of step {step}, seed {seed}, 95 % intervals")
    shown = Table(box=None, pad_edge=False)
    for name in ("", "reward", "likeliest minus this"):
        shown.add_column(name, no_wrap=True)
    for row in rows:
        shown.add_row(row.label, str(row.reward), "" if row.gain is None else str(row.gain))
    console.print(shown)
    _say(console, f"\ncheckpoint  {folder / 'checkpoints'}")
    _say(console, f"next        haps train FILE --set run.warm_start={folder.name}    (or sweep)")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
