"""A made outcome table and a finished replay sweep on it, small enough to train in a moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replays import row, write_table
from sweeps import write

from haps_search.config.load import dump, fingerprint, parse_study
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.local import LocalEngine
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.sweep.events import SweepEnded, SweepStarted, TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.settings import Setting, confirmations, experiment_of
from haps_search.tasks.build import build_task

FRUIT = ("apple", "pear", "plum")
WORDS = ("river stone", "violin string", "tensor matrix")


def fruit_table(file: Path, questions: int = 240, costs: bool = True) -> Path:
    """Fruit k is right on texts of kind k with 0.9 and else with 0.2; the task hides the kind in half of the rows.

    Costs go up from apple to plum.
    """
    draw, rows = random.Random(0), []
    for number in range(questions):
        kind = number % 3
        scores = {f: float(draw.random() < (0.9 if k == kind else 0.2)) for k, f in enumerate(FRUIT)}
        text = f"{WORDS[kind]} number {number} {draw.choice(['why', 'how', 'when'])}"
        paid = {f: 0.001 * (k + 1) * (1 + draw.random()) for k, f in enumerate(FRUIT)}
        task = f"kind{kind}" if number % 2 else "mixed"
        rows.append(row(f"q{number}", text, scores, task=task, **({"cost": paid} if costs else {})))
    return write_table(file, rows)


def fruit_study(table: Path, costs: bool = True, **experiment: Any) -> Study:
    """Hashed TF-IDF, a linear head, a few steps; `experiment` are its own fields."""
    layout = {"type": "routerbench" if costs else "llmrouter"}
    described = {
        "task": {"type": "replay", "table": {"file": str(table), "layout": layout}},
        "candidates": [{"name": f, "source": {"type": "table"}} for f in FRUIT],
        "routing": {
            "prompt": "question",
            "backbone": {"type": "features", "features": [{"type": "tfidf", "buckets": 512, "dimensions": 12}]},
            "low_level": {"type": "none"},
        },
        "learning": {"signal": "outcomes", "learning_rate": {"high": 0.05}},
        "run": {"steps": 20, "questions_per_step": 64, "validation": {"every": 10}, "seed": 3},
    } | experiment
    space = {"learning.learning_rate.high": {"type": "log", "low": 1e-3, "high": 0.1}}
    return parse_study({"name": "fruit", "experiment": described, "space": space, "tracking": {"mlflow": False}})


def train(experiment: Experiment, folder: Path) -> Mapping[str, float]:
    """One run; the metrics of its best validation."""
    task = build_task(experiment.task)
    found = asyncio.run(run(LocalEngine.build(experiment, task), task, experiment, RunFolder(folder, experiment)))
    return found.metrics


def replay_sweep(
    folder: Path, study: Study, rates: Sequence[float] = (0.05, 0.02), seeds: int = 0, top: int = 1
) -> Journal:
    """A finished sweep whose search trials have these learning rates, the `top` best confirmed on so many seeds."""
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.append(SweepStarted(dump(study), fingerprint(study), "9.9", 1767225600.0))
    wanted = [Setting({"learning.learning_rate.high": rate}, study.experiment.run.seed) for rate in rates]
    trials = [_trial(folder, study, setting, number) for number, setting in enumerate(wanted)]
    if seeds:
        best = sorted(trials, key=lambda t: -t.metrics["validation_reward"])
        again = enumerate(confirmations(study, best, top, seeds), start=len(trials))
        trials += [_trial(folder, study, setting, number) for number, setting in again]
    write(journal, *trials)
    journal.append(SweepEnded("all trials ended", 1767229200.0))
    return journal


def _trial(folder: Path, study: Study, setting: Setting, number: int) -> TrialRecord:
    metrics = train(experiment_of(study, setting), trial_folder(folder, number))
    return TrialRecord(
        number, setting.parameters, setting.seed, setting.kind, setting.label, "finished", (), metrics, None, 1
    )
