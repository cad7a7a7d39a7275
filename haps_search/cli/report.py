"""What a sweep says when it has ended: tables on the terminal, the same numbers as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from haps_search import __version__
from haps_search.config.load import dump
from haps_search.config.sweep import Study
from haps_search.evaluation.comparison import Row
from haps_search.records.sealed import replace_text
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.ranking import broken
from haps_search.sweep.repeats import groups


def ranking_table(study: Study, trials: Sequence[TrialRecord], everything: Sequence[TrialRecord]) -> Table:
    """Trials by objective, with the parameters they were given; failed ones last, with the reason."""
    shown, runs = Table(box=None, pad_edge=False), groups(everything)
    objectives, limits = [o.metric for o in study.sweep.objectives], study.sweep.limits
    extra = [*(["over seeds"] if study.sweep.seeds_per_trial > 1 else ()), *(["breaks"] if limits else ())]
    for name in ("trial", "state", *objectives, *extra, "steps", "parameters"):
        shown.add_column(name, overflow="fold")
    for t in trials:
        values = [_value(name, t.metrics[name]) for name in objectives]
        if study.sweep.seeds_per_trial > 1:
            values.append(" ".join(_value(objectives[0], run.metrics[objectives[0]]) for run in runs[t.number]))
        if limits:
            values.append(", ".join(broken(t.metrics, limits)))
        steps = str(t.reports[-1][0]) if t.reports else "-"
        shown.add_row(f"{t.number:03d}", t.state, *values, steps, parameters(t))
    for t in everything:
        if t.state == "failed":
            blank = ["-"] * (len(objectives) + len(extra) + 1)
            shown.add_row(f"{t.number:03d}", t.state, *blank, Text(t.error or ""))
    return shown


def comparison_title(rows: Sequence[Row], best: TrialRecord) -> str:
    """What the comparison was measured on."""
    return f"greedy reward on {rows[-1].reward.count} validation questions, seed {best.seed}, 95 % intervals"


def comparison_table(rows: Sequence[Row]) -> Table:
    """Mean reward of each row, and what the best trial, which is the last, gains over it on the same questions."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "reward", f"{rows[-1].label.removesuffix(' (best trial)')} minus this"):
        shown.add_column(name, no_wrap=True)
    for row in rows:
        shown.add_row(row.label, str(row.reward), "" if row.joint_gain is None else str(row.joint_gain))
    return shown


def closing(console: Console, journal: Journal, best: TrialRecord, uri: str | None) -> None:
    """Where everything is, and what to do next."""
    folder = trial_folder(journal.folder, best.number)
    lines = [
        f"best trial  {best.number:03d}: {parameters(best)}",
        f"checkpoint  {folder / 'checkpoints'}",
        f"log         {journal.folder / 'logs' / 'driver.log'}",
        f"mlflow      haps mlflow {journal.folder.name}    ({uri})" if uri else "mlflow      off",
        *_next(journal),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _next(journal: Journal) -> list[str]:
    name, task = journal.folder.name, journal.study().experiment.task
    if task.type == "replay":  # the test split is read once: by what was confirmed
        confirm = f"haps confirm {name} --top 1 --seeds {task.folds}"
        return [f"next        {confirm}, then haps evaluate {name} --split test", f"            haps report {name}"]
    return [
        f"next        haps evaluate {name} --split test    haps confirm {name} --top 1 --seeds 3",
        f'            haps ask {name} "QUESTION"            haps export {name} --questions FILE -o DIR',
    ]


def keep_report(folder: Path, study: Study, trials: Sequence[TrialRecord], rows: Sequence[Row]) -> list[Path]:
    """Write study.yaml and report.json into the sweep's folder; returns the files."""
    described, report = folder / "study.yaml", folder / "report.json"
    replace_text(described, yaml.safe_dump(dump(study), sort_keys=False))
    content = {
        "code_version": __version__,
        "comparison": [asdict(row) for row in rows],
        "trials": [
            {
                "number": t.number,
                "state": t.state,
                "parameters": t.parameters,
                "seed": t.seed,
                "metrics": t.metrics,
                "breaks": broken(t.metrics, study.sweep.limits),
            }
            for t in trials
        ],
    }
    replace_text(report, json.dumps(content, indent=1))
    return [described, report]


def parameters(trial: TrialRecord) -> str:
    """Short, on one line: the last two parts of each path."""
    return ", ".join(f"{'.'.join(k.split('.')[-2:])}={_short(v)}" for k, v in trial.parameters.items()) or "-"


def _value(metric: str, value: float) -> str:
    """Costs are of any size: three digits of them count."""
    return f"{value:.3g}" if "cost" in metric else f"{value:.3f}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value).strip('"')
