"""Measuring and showing the arms of a sweep."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from haps_search import __version__
from haps_search.cli.drive import Driver, driver, no_result
from haps_search.cli.measure import frozen_scores, keep_texts, score_trials
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.evaluation.comparison import ArmRow, arm_rows
from haps_search.evaluation.intervals import seed_interval
from haps_search.evaluation.labels import ORACLE
from haps_search.records.readings import earlier_readings, note_reading
from haps_search.records.remote import storage
from haps_search.records.sealed import replace_text
from haps_search.search.validation import Scored
from haps_search.sweep.events import SweepEnded, TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.settings import arms
from haps_search.types import Assignment

Held = Literal["validation", "test"]


@dataclass(frozen=True)
class Measured:
    """Rewards (S, N) per arm, with the questions they stand for.

    `failed` are trials that broke, `missing` arms and seeds that have not ended.
    """

    split: Held
    questions: tuple[str, ...]
    rewards: Mapping[str, Sequence[Sequence[float]]]
    seeds: Mapping[str, tuple[int, ...]]
    failed: tuple[str, ...]
    missing: tuple[str, ...]


def measure_arms(study: Study, folder: Path, split: Held, again: bool) -> None:
    """Measure on a pool of this study, print the table, keep it as `compare-SPLIT.json` with every reward.

    Raises ConfigError where a replay's test split was read before, and nobody asked for it `again`.
    """
    ended = Journal(folder).ended()
    if _read_once(study, split):
        earlier_readings(folder, again)  # before Ray is started for nothing
    with driver(study, folder, resume=True) as d:
        show_arms(d, study, split, again)
        if ended is not None:  # taking the sweep up opened it again
            d.journal.append(SweepEnded(ended.reason, time.time()))


def show_arms(d: Driver, study: Study, split: Held, again: bool = False) -> Path:
    """The table of all arms on a split; returns the file that holds it. Raises ConfigError as `measure_arms`."""
    trials = finished_arms(d.journal.trials(), study)
    if not trials:
        raise no_result(d.journal)
    if _read_once(study, split):
        earlier = note_reading(d.journal.folder, f"{d.journal.folder.name}, {len(trials)} runs of arms", again)
        for first in earlier[:1]:
            d.console.print(f"the test split was read {len(earlier)} times before, first on {first.when}")
    return _show(d.console, d.journal.folder, _measured(d, study, trials, split))


def _measured(d: Driver, study: Study, trials: Sequence[TrialRecord], split: Held) -> Measured:
    """Every run and, but in replay, the frozen candidates; what they said is kept in `examples-SPLIT.jsonl`."""
    replays = study.experiment.task.type == "replay"  # its table may lack answers, and nobody can be asked for them
    beside = "" if replays else " and the frozen candidates"
    d.console.print(f"measuring {len(trials)} runs{beside} on the whole {split} split")

    def say(trial: TrialRecord, one: Scored) -> None:
        d.console.print(f"  {trial.label}, seed {trial.seed}: {one.mean:.3f}", highlight=False, soft_wrap=True)

    scored: dict[str, list[Scored]] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    found = asyncio.run(score_trials(d.live, d.journal.folder, study, trials, split, say))
    for trial, one in zip(trials, found, strict=True):
        scored.setdefault(trial.label, []).append(one)
        seeds[trial.label] = (*seeds.get(trial.label, ()), trial.seed)
    frozen = {} if replays else asyncio.run(frozen_scores(d.live, study.experiment, split))
    questions = same_questions([s for row in scored.values() for s in row] + list(frozen.values()))
    texts = {f"frozen {', '.join(z)}": s for z, s in frozen.items()} | {k: v[0] for k, v in scored.items()}
    keep_texts(d.journal.folder / f"examples-{split}.jsonl", texts)
    failed = tuple(f"{t.label}, seed {t.seed}: {t.error}" for t in d.journal.trials() if t.state == "failed")
    left = missing_arms(d.journal.trials(), study)
    return Measured(split, questions, arm_rewards(scored, frozen), seeds, failed, left)


def arm_rewards(
    scored: Mapping[str, Sequence[Scored]], frozen: Mapping[Assignment, Scored]
) -> dict[str, Sequence[Sequence[float]]]:
    """(S, N) per arm, then what frozen candidates earn (S = 1), and the best of them per question in hindsight, where
    they were measured."""
    rewards: dict[str, Sequence[Sequence[float]]] = {label: [s.rewards for s in row] for label, row in scored.items()}
    rewards |= {f"always {', '.join(z)} (frozen)": [s.rewards] for z, s in frozen.items()}
    if frozen:
        rewards[ORACLE] = [[max(r) for r in zip(*(s.rewards for s in frozen.values()), strict=True)]]
    return rewards


def same_questions(scored: Sequence[Scored]) -> tuple[str, ...]:
    """The ids that all were measured on. Raises ConfigError where arms have other questions: nothing can be paired."""
    asked = {tuple((e.question.id, e.question.text, e.question.reference) for e in each.episodes) for each in scored}
    if len(asked) > 1:
        raise ConfigError(
            "arms: their questions differ, so their rewards cannot be paired: arms may not change the files, limits or "
            "sizes of the split that is measured; `haps evaluate NAME/NUMBER` measures a trial alone"
        )
    return tuple(identity for identity, _, _ in asked.pop())


def _read_once(study: Study, split: Held) -> bool:
    """The test split of a table: whoever reads it twice has chosen on it."""
    return split == "test" and study.experiment.task.type == "replay"


def finished_arms(trials: Sequence[TrialRecord], study: Study) -> list[TrialRecord]:
    """Trials of the study's arms that left a result, arm by arm, seeds in the study's order."""
    order = {label: index for index, label in enumerate(study.arms)}
    there = [t for t in trials if t.label in order and t.state in ("finished", "stopped")]
    return sorted(there, key=lambda t: (order[t.label], study.sweep.seeds.index(t.seed)))


def missing_arms(trials: Sequence[TrialRecord], study: Study) -> tuple[str, ...]:
    """Arms and seeds of the study that have neither a result nor an error."""
    ended = {(t.label, t.seed) for t in trials if t.ended}
    return tuple(f"{s.label}, seed {s.seed}" for s in arms(study) if (s.label, s.seed) not in ended)


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


def _show(console: Console, folder: Path, measured: Measured) -> Path:
    rows = arm_rows(measured.rewards, measured.seeds)
    content = {
        "code_version": __version__,
        "rows": [asdict(row) | {"resolvable": _or_none(row.resolvable)} for row in rows],
        **asdict(measured),
    }
    file = folder / f"compare-{measured.split}.json"
    replace_text(file, json.dumps(content))
    console.print(
        f"\ngreedy reward on {len(measured.questions)} {measured.split} questions; 95 % intervals over questions and "
        "seeds (two-way bootstrap; of one seed over questions alone); `could show`: smallest true difference seen with "
        "80 % power",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(arms_table(rows))
    for line in measured.failed:
        console.print(f"failed  {line}", highlight=False, soft_wrap=True, markup=False)
    for line in measured.missing:
        said = f"missing {line}: not ended; `haps resume {folder.name}` goes on with it"
        console.print(said, highlight=False, soft_wrap=True, markup=False)
    console.print(f"kept in {storage(file)}", highlight=False, soft_wrap=True)
    return file


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
