"""What a sweep says when it has ended, as tables and lines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from haps_search.cli.display import Terminal
from haps_search.config.sweep import Study
from haps_search.evaluation.comparison import ArmRow, Row
from haps_search.evaluation.intervals import seed_interval
from haps_search.records.remote import storage
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.ranking import broken
from haps_search.sweep.repeats import groups
from haps_search.verbs.compare import ArmsComparison, finished_arms
from haps_search.verbs.evaluate import TableOnSplit
from haps_search.verbs.sweep import SweepResult

SHOWN = 4
"""Lines of what a failed trial's process printed last; the journal has more."""


def show_sweep(terminal: Terminal, result: SweepResult) -> None:
    """The ranking and the comparison of a search, or the arms; then where everything is, and what to do next."""
    if result.best is None:
        terminal.show(summary_table(result.records, result.study))
        if result.arms is not None:
            show_arms(terminal, result.arms)
        terminal.say(f"next        haps compare {result.name} --split test")
        return
    terminal.show(ranking_table(result.study, result.ranked, result.records))
    terminal.say(f"\n{comparison_title(result.study, result.rows, result.best)}")
    show_comparison(terminal, result.rows)
    for line in ("", *closing(result, result.best)):
        terminal.say(line)


def show_comparison(terminal: Terminal, rows: Sequence[Row]) -> None:
    """The rows, and what those that learnt have cost."""
    terminal.show(comparison_table(rows))
    if any(row.cost is not None for row in rows):
        terminal.say("\nwhat these rows cost: their search, and a step of the trial it found (operations by shapes)")
        terminal.show(cost_table(rows))


def show_table(terminal: Terminal, found: TableOnSplit) -> None:
    """Every row on a split, what it cost, and where it is kept."""
    seeds = max(row.seeds for row in found.rows)
    over = f" and {seeds} seeds (two-way bootstrap)" if seeds > 1 else ""
    terminal.say(f"\ngreedy reward on {found.rows[-1].reward.count} {found.split} questions{over}, 95 % intervals")
    show_comparison(terminal, found.rows)
    terminal.say(f"kept in {storage(found.file)}; `haps report {found.name}` shows it")


def show_arms(terminal: Terminal, found: ArmsComparison) -> None:
    """The table of arms, what it lacks, and where it is kept."""
    measured = found.measured
    terminal.say(
        f"\ngreedy reward on {len(measured.questions)} {measured.split} questions; 95 % intervals over questions and "
        "seeds (two-way bootstrap); `could show`: smallest true difference seen with 80 % power"
    )
    terminal.show(arms_table(found.rows))
    for line in measured.failed:
        terminal.say(f"failed  {line}")
    for line in measured.missing:
        terminal.say(f"missing {line}: not ended; `haps resume {found.name}` goes on with it")
    terminal.say(f"kept in {storage(found.file)}")


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
            shown.add_row(f"{t.number:03d}", t.state, *blank, Text("\n  ".join([t.error or "", *t.log[-SHOWN:]])))
    return shown


def comparison_title(study: Study, rows: Sequence[Row], best: TrialRecord) -> str:
    """What the comparison was measured on."""
    parted = study.experiment.run.validation.choosing_share < 1
    which = "that nothing was chosen on" if parted else "on which settings and checkpoints were chosen too"
    return f"greedy reward on {rows[-1].reward.count} validation questions {which}, seed {best.seed}, 95 % intervals"


def comparison_table(rows: Sequence[Row]) -> Table:
    """Mean reward of each row, and what the best trial, which is the last, gains over it on the same questions."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "reward", f"{rows[-1].label.removesuffix(' (best trial)')} minus this"):
        shown.add_column(name, no_wrap=True)
    for row in rows:
        shown.add_row(row.label, str(row.reward), "" if row.joint_gain is None else str(row.joint_gain))
    return shown


def cost_table(rows: Sequence[Row]) -> Table:
    """Trials and core-seconds of each search; parameters that learn, operations and seconds of a step."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for name in ("trials", "core-seconds", "parameters", "forward FLOPs", "backward FLOPs", "s/step"):
        shown.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        if row.cost is not None:
            c = row.cost
            numbers = (c.core_seconds, c.parameters, c.forward, c.backward)
            seconds = "-" if c.step_seconds is None else f"{c.step_seconds:.2f}"
            shown.add_row(row.label, str(c.trials), *map(counted, numbers), seconds)
    return shown


def counted(number: float | None) -> str:
    """Three digits and k, M, G, T, P; `-` where nobody knows."""
    if number is None:
        return "-"
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**power:
            return f"{number / 10**power:.3g}{unit}"
    return f"{number:.3g}"


def summary_table(trials: Sequence[TrialRecord], study: Study) -> Table:
    """Best validation reward of each run, mean over seeds with Student's t; the best flatters itself a little."""
    shown = Table(box=None, pad_edge=False)
    for name in ("arm", "best validation", "seeds"):
        shown.add_column(name)
    metric = study.sweep.objectives[0].metric
    for label in study.arms:
        values = [t.metrics[metric] for t in finished_arms(trials, study) if t.label == label and metric in t.metrics]
        text = str(seed_interval(values)) if values else "no result"
        shown.add_row(label, text, " ".join(f"{v:.3f}" for v in values))
    return shown


def arms_table(rows: Sequence[ArmRow]) -> Table:
    """Reward of each arm, and its paired difference to the first."""
    shown = Table(box=None, pad_edge=False)
    for name in ("", "reward", f"minus {rows[0].label}", "could show", "per seed"):
        shown.add_column(name, no_wrap=name != "per seed")
    for row in rows:
        shown.add_row(
            row.label,
            str(row.reward),
            "" if row.difference is None else str(row.difference),
            "" if math.isnan(row.resolvable) else f"{row.resolvable:.3f}",
            " ".join(f"{v:.3f}" for v in row.seeds) if len(row.seeds) > 1 else "",
        )
    return shown


def closing(result: SweepResult, best: TrialRecord) -> list[str]:
    """Where everything is, and what to do next."""
    uri = result.tracking_uri
    return [
        f"best trial  {best.number:03d}: {parameters(best)}",
        f"checkpoint  {result.checkpoints}",
        f"log         {result.folder / 'logs' / 'driver.log'}",
        f"mlflow      haps mlflow {result.name}    ({uri})" if uri else "mlflow      off",
        *_next(result),
    ]


def _next(result: SweepResult) -> list[str]:
    name, task = result.name, result.study.experiment.task
    if task.type == "replay":  # the test split is read once: by what was confirmed
        confirm = f"haps confirm {name} --top 1 --seeds {task.folds}"
        return [f"next        {confirm}, then haps evaluate {name} --split test", f"            haps report {name}"]
    confirm = f"haps confirm {name} --seeds 3" + (" --opponents" if result.study.sweep.comparison else "")
    return [
        f"next        {confirm}, then haps evaluate {name} --split test",
        f'            haps ask {name} "QUESTION"            haps export {name} --questions FILE -o DIR',
    ]


def parameters(trial: TrialRecord) -> str:
    """Short, on one line: the last two parts of each path."""
    return ", ".join(f"{'.'.join(k.split('.')[-2:])}={_short(v)}" for k, v in trial.parameters.items()) or "-"


def _value(metric: str, value: float) -> str:
    """Costs are of any size: three digits of them count."""
    return f"{value:.3g}" if "cost" in metric else f"{value:.3f}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value).strip('"')
